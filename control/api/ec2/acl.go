package ec2

import (
	"github.com/ichiro-metal/ichiro/control/api"
)

// aclActions are the actions on network ACLs.
func (s *Service) aclActions() []api.Action { return nil }
