package ec2

import (
	"github.com/ichiro-metal/ichiro/control/api"
)

// addressActions are the actions on public addresses.
func (s *Service) addressActions() []api.Action { return nil }
