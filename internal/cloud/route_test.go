package cloud

import (
	"fmt"
	"testing"
	"time"
)

func TestRoutesOfATable(t *testing.T) {
	v := VPC{ID: "vpc-1", CIDR: block("10.0.0.0/16"), Blocks: []CIDRBlock{{CIDR: block("fd00:0:0:100::/56")}}, Gateway: "igw-1"}
	table := RouteTable{ID: "rtb-1", Routes: []Route{{Destination: block("0.0.0.0/0"), Gateway: "igw-1"}, {Destination: block("192.168.0.0/16"), Interface: "eni-1"}}}
	to := func(cidr string, r Route) Route { r.Destination = block(cidr); return r }
	gateway, nat, card := Route{Gateway: "igw-1"}, Route{NAT: "nat-1"}, Route{Interface: "eni-1"}
	for _, c := range []struct {
		name         string
		route        Route
		add, replace string
	}{
		{"a new destination", to("172.16.0.0/12", card), "", "InvalidParameterValue"},
		{"a destination that is there", to("0.0.0.0/0", nat), "RouteAlreadyExists", ""},
		{"a part of a destination that is there", to("192.168.1.0/24", card), "", "InvalidParameterValue"},
		{"the other family's default", to("::/0", gateway), "", "InvalidParameterValue"},
		{"NAT of IPv6", to("::/0", nat), "UnsupportedOperation", "UnsupportedOperation"},
		{"the VPC's block", to("10.0.0.0/16", card), "RouteAlreadyExists", "UnsupportedOperation"},
		{"more than the VPC's block", to("10.0.0.0/8", card), "", "InvalidParameterValue"},
		{"inside of the VPC, to an interface", to("10.0.1.0/24", card), "UnsupportedOperation", "UnsupportedOperation"},
		{"inside of the VPC, to a gateway", to("10.0.1.0/24", gateway), "InvalidParameterValue", "InvalidParameterValue"},
		{"inside of the VPC's IPv6", to("fd00:0:0:101::/64", gateway), "InvalidParameterValue", "InvalidParameterValue"},
		{"the metadata service", to("169.254.169.254/32", card), "InvalidParameterValue", "InvalidParameterValue"},
		{"the metadata service of IPv6", to("fd00:ec2::254/128", card), "InvalidParameterValue", "InvalidParameterValue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := fmt.Sprint(table)
			next, err := table.Add(v, c.route)
			if got := Code(err); got != c.add || err == nil && len(next.Routes) != 3 {
				t.Errorf("add: got %q, %v, want %q", got, next.Routes, c.add)
			}
			next, err = table.Replace(v, c.route)
			if got := Code(err); got != c.replace || err == nil && (len(next.Routes) != 2 || next.Routes[0] != c.route) {
				t.Errorf("replace: got %q, %v, want %q", got, next.Routes, c.replace)
			}
			if got := fmt.Sprint(table); got != before {
				t.Errorf("the table itself was changed: %s", got)
			}
		})
	}
	for _, c := range []struct{ cidr, code string }{
		{"0.0.0.0/0", ""}, {"10.0.0.0/16", "InvalidParameterValue"}, {"10.0.0.0/8", "InvalidRoute.NotFound"}, {"::/0", "InvalidRoute.NotFound"},
	} {
		next, err := table.Remove(v, block(c.cidr))
		if got := Code(err); got != c.code || err == nil && len(next.Routes) != 1 || len(table.Routes) != 2 {
			t.Errorf("remove %s: got %q, %v, want %q", c.cidr, got, next.Routes, c.code)
		}
	}
}

func TestATableHasFiftyRoutesOfEachFamily(t *testing.T) {
	v, table := VPC{CIDR: block("10.0.0.0/16")}, RouteTable{ID: "rtb-1"}
	for _, form := range []string{"172.16.%d.0/24", "fd01:0:0:%d::/64"} {
		for k := range 51 {
			next, err := table.Add(v, Route{Destination: block(fmt.Sprintf(form, k)), Interface: "eni-1"})
			if got, want := Code(err), map[bool]string{true: "RouteLimitExceeded"}[k == 50]; got != want {
				t.Errorf("route %d: got %q, want %q", k+1, got, want)
			}
			table = next
		}
	}
}

func TestARouteWhoseTargetIsGoneIsABlackHole(t *testing.T) {
	v := VPC{Gateway: "igw-1"}
	for _, c := range []struct {
		name  string
		route Route
		nat   NATGateway
		card  NetworkInterface
		want  string
	}{
		{"the gateway of the VPC", Route{Gateway: "igw-1"}, NATGateway{}, NetworkInterface{}, "active"},
		{"a gateway that was detached", Route{Gateway: "igw-2"}, NATGateway{}, NetworkInterface{}, "blackhole"},
		{"a NAT gateway", Route{NAT: "nat-1"}, NATGateway{ID: "nat-1"}, NetworkInterface{}, "active"},
		{"a NAT gateway that is deleted", Route{NAT: "nat-1"}, NATGateway{ID: "nat-1", Deleted: time.Unix(1, 0)}, NetworkInterface{}, "blackhole"},
		{"a NAT gateway that is forgotten", Route{NAT: "nat-1"}, NATGateway{}, NetworkInterface{}, "blackhole"},
		{"an interface of an instance", Route{Interface: "eni-1"}, NATGateway{}, NetworkInterface{ID: "eni-1", Instance: "i-1"}, "active"},
		{"an interface alone", Route{Interface: "eni-1"}, NATGateway{}, NetworkInterface{ID: "eni-1"}, "blackhole"},
		{"an interface that is gone", Route{Interface: "eni-1"}, NATGateway{}, NetworkInterface{}, "blackhole"},
	} {
		if got := c.route.State(v, c.nat, c.card); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestADeletedNATGatewayIsShownForAnHour(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		gone  time.Duration
		state string
		over  bool
	}{{0, "deleted", false}, {time.Hour, "deleted", false}, {time.Hour + 1, "deleted", true}} {
		n := NATGateway{Deleted: now.Add(-c.gone)}
		if n.State() != c.state || n.Over(now) != c.over {
			t.Errorf("%s ago: got %s, %v, want %s, %v", c.gone, n.State(), n.Over(now), c.state, c.over)
		}
	}
	if n := (NATGateway{}); n.State() != "available" || n.Over(now) {
		t.Errorf("got %s, %v", n.State(), n.Over(now))
	}
}
