//go:build net

package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
)

// namespaces builds what is between the service and a container in a guest:
//
//	host (169.254.169.254 on lo) -- guest (10.77.0.5, forwards) -- container (10.77.0.6)
type namespaces struct {
	t                      *testing.T
	host, guest, container string
}

func newNamespaces(t *testing.T) *namespaces {
	t.Helper()
	p := fmt.Sprintf("imds%d", os.Getpid())
	n := &namespaces{t, p + "h", p + "g", p + "c"}
	t.Cleanup(func() {
		for _, name := range []string{n.host, n.guest, n.container} {
			exec.Command("ip", "netns", "del", name).Run()
		}
	})
	n.sh(`
		for n in HOST GUEST CTR; do ip netns add $n; ip -n $n link set lo up; done
		ip -n HOST link add tap type veth peer name eth0 netns GUEST
		ip -n GUEST link add ctr type veth peer name eth0 netns CTR
		ip -n HOST address add 169.254.169.254/32 dev lo
		ip -n GUEST address add 10.77.0.5/32 dev eth0
		ip -n CTR address add 10.77.0.6/32 dev eth0
		ip -n HOST link set tap up; ip -n GUEST link set eth0 up; ip -n GUEST link set ctr up; ip -n CTR link set eth0 up
		ip -n HOST route add 10.77.0.5 dev tap; ip -n HOST route add 10.77.0.6 via 10.77.0.5 dev tap onlink
		ip -n GUEST route add 169.254.169.254 dev eth0; ip -n GUEST route add 10.77.0.6 dev ctr
		ip -n CTR route add 10.77.0.5 dev eth0; ip -n CTR route add default via 10.77.0.5 dev eth0 onlink
		ip netns exec GUEST sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0`)
	return n
}

func (n *namespaces) sh(script string) {
	n.t.Helper()
	script = strings.NewReplacer("HOST", n.host, "GUEST", n.guest, "CTR", n.container).Replace(script)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		n.t.Fatalf("set up namespaces (as root): %v\n%s", err, out)
	}
}

// in runs do on a thread in the namespace.
func (n *namespaces) in(name string, do func() error) {
	n.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f, err := os.Open("/run/netns/" + name)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			f.Close()
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		n.t.Fatalf("in %s: %v", name, err)
	}
}

// start sends a request from a namespace and returns the connection, on which the reply may come.
func (n *namespaces) start(name, request string) net.Conn {
	n.t.Helper()
	var c net.Conn
	n.in(name, func() (err error) {
		if c, err = net.Dial("tcp4", "169.254.169.254:80"); err == nil {
			_, err = io.WriteString(c, request)
		}
		return err
	})
	n.t.Cleanup(func() { c.Close() })
	return c
}

func (n *namespaces) reply(c net.Conn) (int, string) {
	n.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		n.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// expired returns how many packets a namespace has not forwarded because they had passed too many routers
// (InHdrErrors, RFC 1213).
func (n *namespaces) expired(name string) string {
	n.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", name, "awk", "/^Ip: [0-9]/ {print $5}", "/proc/net/snmp").CombinedOutput()
	if err != nil {
		n.t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestATokenPassesNoMoreRoutersThanAllowed(t *testing.T) {
	n := newNamespaces(t)
	w := newWorld(t)
	var l net.Listener
	n.in(n.host, func() (err error) { l, err = net.Listen("tcp4", "169.254.169.254:80"); return err })
	w.server.serve(testVPC, l)
	publish := func(hops int) {
		w.publish(func(m *bundle.Metadata) {
			m.Options.HopLimit = hops
			m.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("10.77.0.5"), netip.MustParseAddr("10.77.0.6")}
		})
	}
	const put = "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
	const get = "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n\r\n"

	publish(1)
	code, token := n.reply(n.start(n.guest, put))
	if code != 200 || len(token) != 56 {
		t.Fatalf("the guest itself gets %d %q, want a token", code, token)
	}
	if code, body := n.reply(n.start(n.container, get)); code != 200 || body != string(testID) {
		t.Errorf("a container reads %d %q, want the instance's id", code, body)
	}
	before := n.expired(n.guest)
	c := n.start(n.container, put)
	got := make(chan int)
	go func() {
		k, _ := c.Read(make([]byte, 1))
		got <- k
	}()
	for n.expired(n.guest) == before { // the guest's router drops the reply: seen there, not guessed from silence
		select {
		case k := <-got:
			t.Fatalf("a container gets %d bytes of the token's reply", k)
		default:
		}
	}
	c.Close()
	if k := <-got; k != 0 {
		t.Errorf("a container gets %d bytes of the token's reply", k)
	}
	publish(2)
	if code, token := n.reply(n.start(n.container, put)); code != 200 || len(token) != 56 {
		t.Errorf("with a hop limit of 2 a container gets %d %q, want a token", code, token)
	}
}
