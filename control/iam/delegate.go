package iam

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
)

const grantPurpose = "grant"

// Delegate returns a word by which the control plane can act as a caller later, for what they have asked it to do: to
// carry the output of a command to their bucket, when it has ended. It is sealed, and good for nothing without our keys.
// It lasts as long as the user or role does; a session's own policy narrows it, and who revokes a role's sessions
// revokes it with them.
func (e *Engine) Delegate(who *Principal) (string, error) {
	c := claims{RoleName: who.roleName, RoleID: who.roleID, RoleARN: who.roleARN, UserName: who.userName, UserID: who.userID, Policy: who.narrow}
	if who.roleID != "" {
		c.Name = who.UserID[len(who.roleID)+1:]
	}
	if who.session {
		c.Issued = who.issued.Unix()
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode grant: %v", err)
	}
	return base64.StdEncoding.EncodeToString(e.vault.seal(grantPurpose, plain)), nil
}

// Act returns credentials of whom a grant was made for, for so long. They are not on record: nobody is given them.
func (e *Engine) Act(grant string, life time.Duration) (Credentials, error) {
	sealed, err := base64.StdEncoding.DecodeString(grant)
	if err != nil {
		return Credentials{}, fmt.Errorf("read grant: %v", err)
	}
	plain, err := e.vault.open(grantPurpose, sealed)
	if err != nil {
		return Credentials{}, fmt.Errorf("open grant: %v", err)
	}
	var c claims
	if err := json.Unmarshal(plain, &c); err != nil {
		return Credentials{}, fmt.Errorf("read grant: %v", err)
	}
	now := e.now()
	if c.Issued == 0 { // of a long-term key, which has no age
		c.Issued = now.Unix()
	}
	c.ID, c.Expires = newID("ASIA", 16), now.Add(life).Unix()
	token, err := e.vault.mintToken(c)
	return Credentials{AccessKeyID: c.ID, SecretAccessKey: e.vault.sessionSecret(c.ID), SessionToken: token, Expiration: now.Add(life)}, err
}
