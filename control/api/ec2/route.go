package ec2

import (
	"github.com/ichiro-metal/ichiro/control/api"
)

// routeActions are the actions on route tables.
func (s *Service) routeActions() []api.Action { return nil }
