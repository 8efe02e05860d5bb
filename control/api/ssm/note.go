package ssm

import (
	"context"

	"github.com/ichiro-metal/ichiro/control/api"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// A note is what the audit keeps of a call beside the resources that permission was asked for: what was made, and which text it was.
// Nothing of it is secret; so there is no digest of a parameter's value, which could be guessed by it.
type note struct {
	Command    cloud.CommandID    `json:"command,omitempty"`
	Instances  []string           `json:"instances,omitempty"` // those of a command that a cancellation names
	Version    string             `json:"version,omitempty"`   // of the document, or the parameter
	SHA256     string             `json:"sha256,omitempty"`    // of the document's text
	Added      []string           `json:"added,omitempty"`     // whom a document is shared with
	Removed    []string           `json:"removed,omitempty"`
	Activation cloud.ActivationID `json:"activation,omitempty"`
	Session    cloud.SessionID    `json:"session,omitempty"`
}

func (n note) on(ctx context.Context) { api.Remark(ctx, n) }
