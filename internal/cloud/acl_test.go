package cloud_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestEntriesOfACLs(t *testing.T) {
	good := cloud.EntryRequest{Number: 100, Protocol: "6", Action: "allow", CIDR: "10.0.0.5/8", From: n(22), To: n(80)}
	for name, c := range map[string]struct {
		edit func(r *cloud.EntryRequest)
		want string // the entry, or an error's code
	}{
		"ports":                      {func(r *cloud.EntryRequest) {}, "{100 false 6 true 10.0.0.0/8 22 80}"},
		"a name":                     {func(r *cloud.EntryRequest) { r.Protocol = "udp" }, "{100 false 17 true 10.0.0.0/8 22 80}"},
		"everything":                 {func(r *cloud.EntryRequest) { r.Protocol, r.Action = "-1", "deny" }, "{100 false -1 false 10.0.0.0/8 -1 -1}"},
		"the highest number":         {func(r *cloud.EntryRequest) { r.Number, r.Egress = 32766, true }, "{32766 true 6 true 10.0.0.0/8 22 80}"},
		"ICMP":                       {func(r *cloud.EntryRequest) { r.Protocol, r.Type, r.Code = "1", n(8), n(-1) }, "{100 false 1 true 10.0.0.0/8 8 -1}"},
		"ICMPv6 in IPv4 has no type": {func(r *cloud.EntryRequest) { r.Protocol, r.Type, r.Code = "58", n(8), n(-1) }, "{100 false 58 true 10.0.0.0/8 -1 -1}"},
		"ICMPv6": {func(r *cloud.EntryRequest) {
			r.Protocol, r.CIDR, r.CIDRv6, r.Type, r.Code = "58", "", "::/0", n(128), n(0)
		}, "{100 false 58 true ::/0 128 0}"},
		"number 0":                            {func(r *cloud.EntryRequest) { r.Number = 0 }, "InvalidParameterValue"},
		"the number of the last entry":        {func(r *cloud.EntryRequest) { r.Number = 32767 }, "InvalidParameterValue"},
		"another action":                      {func(r *cloud.EntryRequest) { r.Action = "Allow" }, "InvalidParameterValue"},
		"no CIDR":                             {func(r *cloud.EntryRequest) { r.CIDR = "" }, "MissingParameter"},
		"two CIDRs":                           {func(r *cloud.EntryRequest) { r.CIDRv6 = "::/0" }, "MissingParameter"},
		"a CIDR that is none":                 {func(r *cloud.EntryRequest) { r.CIDR = "10.0.0.0" }, "InvalidParameterValue"},
		"a protocol that is none":             {func(r *cloud.EntryRequest) { r.Protocol = "x" }, "InvalidParameterValue"},
		"TCP without ports":                   {func(r *cloud.EntryRequest) { r.From = nil }, "MissingParameter"},
		"ports out of range":                  {func(r *cloud.EntryRequest) { r.To = n(65536) }, "InvalidParameterValue"},
		"ICMP without type":                   {func(r *cloud.EntryRequest) { r.Protocol = "icmp" }, "MissingParameter"},
		"ICMPv6 without type in IPv6":         {func(r *cloud.EntryRequest) { r.Protocol, r.CIDR, r.CIDRv6 = "58", "", "::/0" }, "MissingParameter"},
		"ports of a protocol without, though": {func(r *cloud.EntryRequest) { r.Protocol, r.From = "50", n(99999) }, "{100 false 50 true 10.0.0.0/8 -1 -1}"},
	} {
		r := good
		c.edit(&r)
		e, err := cloud.NewACLEntry(r)
		got := fmt.Sprint(e)
		if err != nil {
			got = cloud.Code(err)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestEntriesAreKeptInOrder(t *testing.T) {
	a := cloud.NetworkACL{ID: "acl-1"}
	add := func(number int, egress bool, cidr string) error {
		next, err := a.Add(cloud.ACLEntry{Number: number, Egress: egress, Protocol: -1, CIDR: netip.MustParsePrefix(cidr), FromPort: -1, ToPort: -1, Allow: true})
		if err == nil {
			a = next
		}
		return err
	}
	for _, number := range []int{300, 100, 200} {
		for _, egress := range []bool{true, false} {
			if err := add(number, egress, "0.0.0.0/0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	show := func(list []cloud.ACLEntry) string {
		var b strings.Builder
		for _, e := range list {
			fmt.Fprintf(&b, "%d %v %s, ", e.Number, e.Egress, e.CIDR)
		}
		return strings.TrimSuffix(b.String(), ", ")
	}
	const want = "100 false 0.0.0.0/0, 200 false 0.0.0.0/0, 300 false 0.0.0.0/0, 100 true 0.0.0.0/0, 200 true 0.0.0.0/0, 300 true 0.0.0.0/0"
	if got := show(a.Entries); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	v := cloud.VPC{CIDR: netip.MustParsePrefix("10.0.0.0/16"), Blocks: []cloud.CIDRBlock{{CIDR: netip.MustParsePrefix("2001:db8::/56")}}}
	open := cloud.NetworkACL{Entries: cloud.OpenACL()}
	if got, want := show(open.Shown(v)), "100 false 0.0.0.0/0, 32767 false 0.0.0.0/0, 32768 false ::/0, 100 true 0.0.0.0/0, 32767 true 0.0.0.0/0, 32768 true ::/0"; got != want {
		t.Errorf("shown: got %s\nwant %s", got, want)
	}
	if !slices.Equal(open.Entries, cloud.OpenACL()) {
		t.Error("to be shown has changed it")
	}
	if err := add(100, true, "::/0"); cloud.Code(err) != "NetworkAclEntryAlreadyExists" {
		t.Errorf("a number that is taken: got %v", err)
	}
	for number := 1; number <= 17; number++ {
		if err := add(number, false, "0.0.0.0/0"); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(18, false, "0.0.0.0/0"); cloud.Code(err) != "NetworkAclEntryLimitExceeded" {
		t.Errorf("the 21st: got %v", err)
	}
	if err := add(18, false, "::/0"); err != nil {
		t.Errorf("the first of IPv6: %v", err)
	}
	six, err := a.Replace(cloud.ACLEntry{Number: 18, CIDR: netip.MustParsePrefix("0.0.0.0/0")})
	if cloud.Code(err) != "NetworkAclEntryLimitExceeded" {
		t.Errorf("an entry that changes its family: got %v %v", six, err)
	}
	for number, want := range map[int64]string{100: "", 101: "InvalidNetworkAclEntry.NotFound", 32767: "InvalidParameterValue", 32768: "InvalidParameterValue"} {
		if _, err := a.Remove(true, number); cloud.Code(err) != want {
			t.Errorf("remove %d: got %v, want %q", number, err, want)
		}
	}
	if _, err := a.Replace(cloud.ACLEntry{Number: 999, CIDR: netip.MustParsePrefix("0.0.0.0/0")}); cloud.Code(err) != "InvalidNetworkAclEntry.NotFound" {
		t.Errorf("replace what is not there: got %v", err)
	}
}

func TestSetsOfDHCPOptions(t *testing.T) {
	for name, c := range map[string]struct {
		options []cloud.DHCPOption
		want    string // the list, or an error's code
	}{
		"a domain":                       {[]cloud.DHCPOption{{"domain-name", []string{"example.com"}}}, "[{domain-name [example.com]}]"},
		"a search list":                  {[]cloud.DHCPOption{{"domain-name", []string{"a.example b.example"}}}, "[{domain-name [a.example b.example]}]"},
		"the VPC's resolver":             {[]cloud.DHCPOption{{"domain-name-servers", []string{"AmazonProvidedDNS"}}}, "[{domain-name-servers [AmazonProvidedDNS]}]"},
		"servers in one value":           {[]cloud.DHCPOption{{"domain-name-servers", []string{"10.0.0.2, 10.0.0.3,fd00:ec2::253"}}}, "[{domain-name-servers [10.0.0.2 10.0.0.3 fd00:ec2::253]}]"},
		"eight servers of time":          {[]cloud.DHCPOption{{"ntp-servers", []string{"10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,::1,::2,::3,::4"}}}, "[{ntp-servers [10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 ::1 ::2 ::3 ::4]}]"},
		"NetBIOS":                        {[]cloud.DHCPOption{{"netbios-node-type", []string{"2"}}, {"netbios-name-servers", []string{"10.0.0.9"}}}, "[{netbios-name-servers [10.0.0.9]} {netbios-node-type [2]}]"},
		"a time of IPv6":                 {[]cloud.DHCPOption{{"ipv6-address-preferred-lease-time", []string{"140"}}}, "[{ipv6-address-preferred-lease-time [140]}]"},
		"an option that is none":         {[]cloud.DHCPOption{{"routers", []string{"10.0.0.1"}}}, "InvalidParameterValue"},
		"no value":                       {[]cloud.DHCPOption{{"domain-name", []string{" , "}}}, "InvalidParameterValue"},
		"an option twice":                {[]cloud.DHCPOption{{"domain-name", []string{"a"}}, {"domain-name", []string{"b"}}}, "InvalidParameterValue"},
		"two domains":                    {[]cloud.DHCPOption{{"domain-name", []string{"a", "b"}}}, "InvalidParameterValue"},
		"a domain that is none":          {[]cloud.DHCPOption{{"domain-name", []string{"a..b"}}}, "InvalidParameterValue"},
		"a domain for a shell":           {[]cloud.DHCPOption{{"domain-name", []string{"a;reboot"}}}, "InvalidParameterValue"},
		"a long domain":                  {[]cloud.DHCPOption{{"domain-name", []string{strings.Repeat("a.", 127)}}}, "InvalidParameterValue"},
		"five servers":                   {[]cloud.DHCPOption{{"domain-name-servers", []string{"10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5"}}}, "InvalidParameterValue"},
		"a server twice":                 {[]cloud.DHCPOption{{"ntp-servers", []string{"10.0.0.1", "10.0.0.1"}}}, "InvalidParameterValue"},
		"a server's name":                {[]cloud.DHCPOption{{"ntp-servers", []string{"pool.example"}}}, "InvalidParameterValue"},
		"a resolver of the VPC for time": {[]cloud.DHCPOption{{"ntp-servers", []string{"AmazonProvidedDNS"}}}, "InvalidParameterValue"},
		"NetBIOS by IPv6":                {[]cloud.DHCPOption{{"netbios-name-servers", []string{"::1"}}}, "InvalidParameterValue"},
		"node type 3":                    {[]cloud.DHCPOption{{"netbios-node-type", []string{"3"}}}, "InvalidParameterValue"},
		"a short time of IPv6":           {[]cloud.DHCPOption{{"ipv6-address-preferred-lease-time", []string{"139"}}}, "InvalidParameterValue"},
		"a long time of IPv6":            {[]cloud.DHCPOption{{"ipv6-address-preferred-lease-time", []string{"2147483648"}}}, "InvalidParameterValue"},
	} {
		var o cloud.DHCPOptions
		var err error
		for _, option := range c.options {
			if o, err = o.Set(option); err != nil {
				break
			}
		}
		got := fmt.Sprint(o.List())
		if err != nil {
			got = cloud.Code(err)
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}
