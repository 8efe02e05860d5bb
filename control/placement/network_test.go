package placement

import (
	"net/netip"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestANetworkACLWithoutEntriesIsNotAnOpenOne(t *testing.T) {
	vpc := cloud.VPC{ID: "vpc-1", NetworkACL: "acl-1"}
	subnet := cloud.Subnet{ID: "subnet-1", VPC: "vpc-1", CIDR: netip.MustParsePrefix("10.0.0.0/24")}
	some := cloud.ACLEntry{Number: 7, Protocol: 6, Allow: true, CIDR: netip.MustParsePrefix("10.0.0.0/8"), FromPort: 22, ToPort: 22}
	cases := map[string]struct {
		entries []cloud.ACLEntry
		want    int  // entries that the host is told
		passes  bool // one of them allows something, or there is none
	}{
		"what a VPC begins with is open": {cloud.OpenACL(), 0, true},
		"entries are told as they are":   {[]cloud.ACLEntry{some}, 1, true},
		"no entries let nothing pass":    {nil, 2, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := World{ACLs: map[cloud.NetworkACLID]cloud.NetworkACL{"acl-1": {ID: "acl-1", VPC: "vpc-1", Entries: c.entries}}}
			got := w.subnet(vpc, subnet, netip.Addr{}).ACL
			passes := len(got) == 0
			for _, e := range got {
				passes = passes || e.Allow
			}
			if len(got) != c.want || passes != c.passes {
				t.Errorf("got %v, want %d entries that let something pass: %v", got, c.want, c.passes)
			}
		})
	}
}
