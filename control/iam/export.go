package iam

import (
	"context"

	"github.com/ichiro-metal/ichiro/internal/store"
)

// Holder is a user or role as another evaluator of policies needs it: with the
// texts of all policies in force, attached ones too.
type Holder struct {
	User  *User // one of the two
	Role  *Role
	Texts []Inline
}

// HolderOf returns the user or role with this name.
func (e *Engine) HolderOf(kind, name string) (Holder, bool) {
	who := &Principal{}
	var h Holder
	switch kind {
	case "user":
		u := users.look(e, name)
		if u == nil || u.Name != name {
			return h, false
		}
		h.User, who.userName, who.userID = u, u.Name, u.ID
	case "role":
		r := roles.look(e, name)
		if r == nil || r.Name != name {
			return h, false
		}
		h.Role, who.roleName, who.roleID = r, r.Name, r.ID
	}
	for _, text := range e.documents(who) {
		h.Texts = append(h.Texts, Inline{Document: text})
	}
	return h, true
}

// SessionOf returns a role's session that is not over, by its key alone, with its
// secret. Whoever asks must compare the token with the request's: a key id is no secret.
func (e *Engine) SessionOf(ctx context.Context, accessKeyID string) (Session, string, bool) {
	o, err := store.Get(ctx, e.client, sessions.kind, fold(accessKeyID))
	if err != nil || o.Value.RoleID == "" || !e.now().Before(o.Value.Expires) {
		return Session{}, "", false
	}
	return o.Value, e.vault.sessionSecret(o.Value.ID), true
}
