package cloud

// SecurityGroup is a list of what may come in and go out; what is not listed is dropped.
type SecurityGroup struct {
	ID          GroupID
	Account     AccountID
	VPC         VPCID
	Name        string
	Description string
	Ingress     []GroupRule
	Egress      []GroupRule
	Tags        Tags `json:",omitempty"`
}

// GroupRule allows one protocol and port range to or from one peer: a prefix or the members of a group.
type GroupRule struct {
	ID          RuleID
	Protocol    string  // tcp, udp, icmp, a number, or -1 for all
	FromPort    int     // -1 for all; ICMP type
	ToPort      int     // -1 for all; ICMP code
	CIDR        string  `json:",omitempty"` // of IPv4 or IPv6
	Group       GroupID `json:",omitempty"`
	Description string  `json:",omitempty"`
	Tags        Tags    `json:",omitempty"`
}

// DefaultGroupRules returns what EC2 gives a VPC's default group: everything in from its own members,
// everything out.
func DefaultGroupRules(id GroupID, in, out RuleID) (ingress, egress []GroupRule) {
	return []GroupRule{{ID: in, Protocol: "-1", FromPort: -1, ToPort: -1, Group: id}},
		[]GroupRule{{ID: out, Protocol: "-1", FromPort: -1, ToPort: -1, CIDR: "0.0.0.0/0"}}
}
