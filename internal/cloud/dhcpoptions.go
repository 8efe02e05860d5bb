package cloud

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// DHCPOptions is what DHCP tells the guests of the VPCs that use it. Sets do not change: another one is associated.
type DHCPOptions struct {
	ID                    DHCPOptionsID
	Account               AccountID
	DomainName            string   `json:",omitempty"`
	DomainNameServers     []string `json:",omitempty"` // addresses, or AmazonProvidedDNS
	NTPServers            []string `json:",omitempty"`
	NetBIOSNameServers    []string `json:",omitempty"`
	NetBIOSNodeType       int      `json:",omitempty"` // 1, 2, 4 or 8
	IPv6PreferredLeaseSec int      `json:",omitempty"` // 0: EC2's 140
	Tags                  Tags     `json:",omitempty"`
}

// ProvidedDNS in DomainNameServers is the VPC's own resolver, at the second address after its base.
const ProvidedDNS = "AmazonProvidedDNS"

// OptionsPerRegion is EC2's quota of sets as an account begins with it.
const OptionsPerRegion = 100

// serversPerOption is how many addresses of one family an option may have.
const serversPerOption = 4

// DHCPOption is one option by its name, with values as a client writes them: each may hold several, separated by commas.
type DHCPOption struct {
	Name   string
	Values []string
}

// Set returns the options with one more, each of which may be given once.
func (o DHCPOptions) Set(given DHCPOption) (DHCPOptions, error) {
	var values []string
	for _, v := range given.Values {
		for _, part := range strings.Split(v, ",") {
			if part = strings.TrimSpace(part); part != "" {
				values = append(values, part)
			}
		}
	}
	for _, had := range o.List() {
		if had.Name == given.Name {
			return o, Errorf("InvalidParameterValue", "The DHCP option %s is given twice: put its values together", given.Name)
		}
	}
	if len(values) == 0 {
		return o, Errorf("InvalidParameterValue", "The DHCP option %.40q has no value", given.Name)
	}
	var err error
	switch given.Name {
	case "domain-name":
		o.DomainName, err = domainName(values)
	case "domain-name-servers":
		o.DomainNameServers, err = servers(given.Name, values, ProvidedDNS, true)
	case "ntp-servers":
		o.NTPServers, err = servers(given.Name, values, "", true)
	case "netbios-name-servers":
		o.NetBIOSNameServers, err = servers(given.Name, values, "", false)
	case "netbios-node-type":
		o.NetBIOSNodeType, err = number(given.Name, values, func(n int64) bool { return n == 1 || n == 2 || n == 4 || n == 8 }, "1, 2, 4 or 8")
	case "ipv6-address-preferred-lease-time":
		o.IPv6PreferredLeaseSec, err = number(given.Name, values, func(n int64) bool { return n >= 140 && n <= 1<<31-1 }, "140 to 2147483647 seconds")
	default:
		err = Errorf("InvalidParameterValue", "%.40q is not a DHCP option that can be set: domain-name, domain-name-servers, ntp-servers, netbios-name-servers, netbios-node-type and ipv6-address-preferred-lease-time are", given.Name)
	}
	return o, err
}

// domainName accepts one name; several separated by spaces, which some guests take for a search list, are one value.
func domainName(values []string) (string, error) {
	name := values[0]
	if len(values) > 1 {
		return "", Errorf("InvalidParameterValue", "domain-name takes one value, and this has %d: separate domains by spaces", len(values))
	}
	if len(name) > 253 {
		return "", Errorf("InvalidParameterValue", "domain-name has %d characters, and 253 is the most", len(name))
	}
	for _, domain := range strings.Fields(name) {
		for _, label := range strings.Split(strings.TrimSuffix(domain, "."), ".") {
			if !hostLabel(label) {
				return "", Errorf("InvalidParameterValue", "domain-name %.80q is not a domain: use letters, digits, dashes and dots", name)
			}
		}
	}
	return name, nil
}

func hostLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	return strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// servers checks a list of addresses, in which word may stand for one.
func servers(name string, values []string, word string, ipv6 bool) ([]string, error) {
	out := make([]string, 0, len(values))
	var v4, v6 int
	for _, v := range values {
		if word != "" && v == word {
			v4++
			out = append(out, v)
			continue
		}
		a, err := netip.ParseAddr(v)
		if err != nil || a.Zone() != "" || a.Is6() && !ipv6 || a.IsMulticast() || a.IsUnspecified() {
			return nil, Errorf("InvalidParameterValue", "%.60q in %s is not an address of a server", v, name)
		}
		if a.Is6() {
			v6++
		} else {
			v4++
		}
		out = append(out, a.String())
	}
	if max(v4, v6) > serversPerOption {
		return nil, Errorf("InvalidParameterValue", "%s takes up to %d servers of each family, and this has %d", name, serversPerOption, max(v4, v6))
	}
	if slices.Sort(values); len(slices.Compact(values)) < len(out) {
		return nil, Errorf("InvalidParameterValue", "%s names a server twice", name)
	}
	return out, nil
}

func number(name string, values []string, good func(int64) bool, want string) (int, error) {
	n, err := strconv.ParseInt(values[0], 10, 64)
	if err != nil || len(values) > 1 || !good(n) {
		return 0, Errorf("InvalidParameterValue", "%s is %s, not %.40q", name, want, strings.Join(values, ","))
	}
	return int(n), nil
}

// List returns the options that are set, in a fixed order.
func (o DHCPOptions) List() []DHCPOption {
	var out []DHCPOption
	add := func(name string, values ...string) {
		if len(values) > 0 && values[0] != "" && values[0] != "0" {
			out = append(out, DHCPOption{name, values})
		}
	}
	add("domain-name", o.DomainName)
	add("domain-name-servers", o.DomainNameServers...)
	add("ntp-servers", o.NTPServers...)
	add("netbios-name-servers", o.NetBIOSNameServers...)
	add("netbios-node-type", strconv.Itoa(o.NetBIOSNodeType))
	add("ipv6-address-preferred-lease-time", strconv.Itoa(o.IPv6PreferredLeaseSec))
	return out
}
