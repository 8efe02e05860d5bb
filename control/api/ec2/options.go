package ec2

import (
	"github.com/ichiro-metal/ichiro/control/api"
)

// optionsActions are the actions on DHCP options.
func (s *Service) optionsActions() []api.Action { return nil }
