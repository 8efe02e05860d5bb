package tools

import (
	"strings"
	"testing"
)

func TestServersAreFoundByAddressAndByName(t *testing.T) {
	for _, c := range []struct{ name, host, want, err string }{
		{"an address", "169.254.169.254", "169.254.169.254:80", ""},
		{"an address with a port", "192.0.2.1:8080", "192.0.2.1:8080", ""},
		{"an address of IPv6", "[fd00:ec2::254]", "[fd00:ec2::254]:80", ""},
		{"one with a port", "[fd00:ec2::254]:8080", "[fd00:ec2::254]:8080", ""},
		{"one without its end", "[fd00:ec2::254", "", "lookup fd00:ec2:"},
		{"a name of /etc/hosts", "localhost:81", "127.0.0.1:81", ""},
		{"a name that nobody has", "nobody.invalid", "", "lookup nobody.invalid"},
		{"a port that is none", "192.0.2.1:http", "", "no port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := address(t.Context(), c.host)
			switch {
			case c.err == "" && (err != nil || got.String() != c.want):
				t.Errorf("got %s, %v; want %s", got, err, c.want)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got %s, %v; want an error with %q", got, err, c.err)
			}
		})
	}
}
