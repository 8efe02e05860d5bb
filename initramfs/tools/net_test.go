package tools

import (
	"net"
	"strings"
	"testing"
	"time"
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

func TestCurlWaitsNoLongerThanItIsTold(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0") // it connects, and nobody answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	said, code := use(t, t.TempDir(), "", "curl", "-s", "-m", "0.05", "http://"+l.Addr().String()+"/")
	if took := time.Since(began); code != 28 || took < 50*time.Millisecond || took > 5*time.Second {
		t.Errorf("got %q, code %d after %v; want curl's 28", said, code, took)
	}
}
