package ssm

import (
	"slices"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// notification reads who is to be told how a command goes; nil for nobody. Where SNS has a topic there is an address: NotificationArn
// is its URL.
func (s *Service) notification(in *shape.SendCommandInput) (*cloud.Notification, error) {
	c := in.NotificationConfig
	if c == nil || c.NotificationArn == "" && len(c.NotificationEvents) == 0 && c.NotificationType == "" {
		return nil, nil
	}
	if s.Notify == nil {
		return nil, cloud.Errorf("InvalidNotificationConfig", "Notifications are not sent here: leave NotificationConfig out")
	}
	if err := s.Notify(c.NotificationArn); err != nil {
		return nil, cloud.Errorf("InvalidNotificationConfig", "NotificationArn is the URL that is told, as there are no topics of SNS: %s", err)
	}
	n := &cloud.Notification{URL: c.NotificationArn}
	switch c.NotificationType {
	case "", "Command":
	case "Invocation":
		n.Instances = true
	default:
		return nil, cloud.Errorf("InvalidNotificationConfig", "NotificationType is Command or Invocation, not %.20q", c.NotificationType)
	}
	known := []cloud.InvocationStatus{cloud.InvocationInProgress, cloud.InvocationSuccess, cloud.InvocationTimedOut, cloud.InvocationCancelled, cloud.InvocationFailed}
	for _, e := range c.NotificationEvents {
		switch status := cloud.InvocationStatus(e); {
		case e == "All":
			n.Events = known
		case !slices.Contains(known, status):
			return nil, cloud.Errorf("InvalidNotificationConfig", "NotificationEvents has %.20q: give All, InProgress, Success, TimedOut, Cancelled or Failed", e)
		case !slices.Contains(n.Events, status):
			n.Events = append(slices.Clone(n.Events), status)
		}
	}
	return n, nil
}

// notified is a notification in Systems Manager's shape.
func notified(n *cloud.Notification) *shape.NotificationConfig {
	if n == nil {
		return nil
	}
	out := &shape.NotificationConfig{NotificationArn: n.URL, NotificationType: "Command", NotificationEvents: []string{}}
	if n.Instances {
		out.NotificationType = "Invocation"
	}
	for _, e := range n.Events {
		out.NotificationEvents = append(out.NotificationEvents, string(e))
	}
	return out
}
