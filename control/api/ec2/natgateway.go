package ec2

import (
	"github.com/ichiro-metal/ichiro/control/api"
)

// natActions are the actions on NAT gateways.
func (s *Service) natActions() []api.Action { return nil }
