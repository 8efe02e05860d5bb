package tools

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/fetch"
	"github.com/ichiro-metal/ichiro/internal/network"
)

// ip shows what iproute2's shows: ip [addr | link | route [show table all] | rule]. It changes nothing.
func ip(_ context.Context, c *Call) int {
	var words []string
	for _, a := range c.Args {
		if !strings.HasPrefix(a, "-") {
			words = append(words, a)
		}
	}
	object := "addr"
	if len(words) > 0 {
		object = words[0]
	}
	switch {
	case strings.HasPrefix("route", object):
		return routes(c, slices.Contains(words, "all"))
	case strings.HasPrefix("rule", object):
		return rules(c)
	case strings.HasPrefix("addr", object), strings.HasPrefix("address", object), strings.HasPrefix("link", object):
	default:
		return c.usage("[addr | link | route [show table all] | rule]")
	}
	addresses, err := network.Addresses()
	if err != nil {
		return c.fail(err)
	}
	dirs, _ := filepath.Glob("/sys/class/net/*")
	for _, d := range dirs {
		read := func(name string) string {
			text, _ := os.ReadFile(filepath.Join(d, name))
			return strings.TrimSpace(string(text))
		}
		fmt.Fprintf(c.Stdout, "%s: %s: mtu %s state %s\n    link %s\n", read("ifindex"), path.Base(d), read("mtu"),
			strings.ToUpper(read("operstate")), read("address"))
		if strings.HasPrefix("link", object) {
			continue
		}
		for _, a := range addresses {
			if strconv.Itoa(a.Index) == read("ifindex") {
				family := "inet"
				if a.Prefix.Addr().Is6() {
					family = "inet6"
				}
				fmt.Fprintf(c.Stdout, "    %s %s\n", family, a.Prefix)
			}
		}
	}
	return 0
}

// routes prints the main table, or all.
func routes(c *Call, all bool) int {
	list, err := network.Routes()
	if err != nil {
		return c.fail(err)
	}
	names := map[int]string{}
	dirs, _ := filepath.Glob("/sys/class/net/*")
	for _, d := range dirs {
		text, _ := os.ReadFile(filepath.Join(d, "ifindex"))
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			names[n] = path.Base(d)
		}
	}
	for _, r := range list {
		line := r.To.String()
		if r.To.Bits() == 0 {
			line = "default"
		}
		if r.Via.IsValid() {
			line += " via " + r.Via.String()
		}
		if name := names[r.Index]; name != "" {
			line += " dev " + name
		}
		if r.Table != mainTable {
			if !all {
				continue
			}
			line += " table " + strconv.Itoa(r.Table)
		}
		if r.Metric != 0 {
			line += " metric " + strconv.Itoa(r.Metric)
		}
		fmt.Fprintln(c.Stdout, line)
	}
	return 0
}

const mainTable = 254 // include/uapi/linux/rtnetlink.h

// rules prints the policy rules.
func rules(c *Call) int {
	list, err := network.Rules()
	if err != nil {
		return c.fail(err)
	}
	names := map[int]string{253: "default", mainTable: "main", 255: "local"}
	for _, r := range list {
		from := "all"
		if r.From.IsValid() {
			from = strings.TrimSuffix(r.From.String(), "/32")
		}
		table := names[r.Table]
		if table == "" {
			table = strconv.Itoa(r.Table)
		}
		fmt.Fprintf(c.Stdout, "%d: from %s lookup %s\n", r.Priority, from, table)
	}
	return 0
}

// download is what curl and wget have in common.
type download struct {
	method  string
	header  map[string]string
	url     string
	out     string // file; "-" for the standard output
	quiet   bool
	head    bool          // print the answer's headers too
	mayFail bool          // an HTTP error is shown like any answer
	most    time.Duration // 0: what the connection takes
}

func (d download) do(ctx context.Context, c *Call) int {
	began := time.Now() // before the deadline is set: when that has passed, so much time has
	if d.most > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.most)
		defer cancel()
	}
	at, ok := strings.CutPrefix(d.url, "http://")
	if !ok {
		if strings.Contains(d.url, "://") {
			return c.fail(fmt.Errorf("%s: only http:// is known here", d.url))
		}
		at = d.url
	}
	host, file, _ := strings.Cut(at, "/")
	server, err := address(ctx, host)
	if err != nil {
		return c.fail(err)
	}
	answers, err := fetch.Client{Server: server, Host: host}.Do(ctx, fetch.Request{Method: d.method, Path: "/" + file, Header: d.header})
	if err != nil && d.most > 0 && time.Since(began) >= d.most {
		c.fail(err)
		return 28 // curl's
	}
	if err != nil {
		return c.fail(err)
	}
	a := answers[0]
	if a.Status >= 400 && !d.mayFail {
		if !d.quiet {
			fmt.Fprintf(c.Stderr, "%s: %s: HTTP %d\n", c.Name, d.url, a.Status)
		}
		return 22 // curl's
	}
	out := c.Stdout
	if d.out != "-" {
		f, err := os.Create(c.path(d.out))
		if err != nil {
			return c.fail(err)
		}
		defer f.Close()
		out = f
	}
	if d.head {
		fmt.Fprintf(out, "HTTP/1.1 %d\r\n", a.Status)
		for k, v := range a.Header {
			fmt.Fprintf(out, "%s: %s\r\n", k, v)
		}
		io.WriteString(out, "\r\n")
	}
	if _, err := out.Write(a.Body); err != nil {
		return c.fail(err)
	}
	return 0
}

// address finds a server: a literal address, or a name of /etc/hosts or of the resolver that DHCP told.
func address(ctx context.Context, host string) (netip.AddrPort, error) {
	name, port := host, "80"
	if at := strings.LastIndexByte(host, ':'); at > strings.LastIndexByte(host, ']') { // not one of an address of IPv6
		name, port = host[:at], host[at+1:]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s: %q is no port", host, port)
	}
	if inner, ok := strings.CutPrefix(name, "["); ok {
		name = strings.TrimSuffix(inner, "]")
	}
	if a, err := netip.ParseAddr(name); err == nil {
		return netip.AddrPortFrom(a, uint16(n)), nil
	}
	found, err := resolver.LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(n)), nil
}

// resolver is Go's own, which reads /etc/hosts and /etc/resolv.conf: there is no C library here.
var resolver = &net.Resolver{PreferGo: true}

func setHeader(header map[string]string, text string) {
	k, v, _ := strings.Cut(text, ":")
	header[strings.TrimSpace(k)] = strings.TrimSpace(v)
}

func curl(ctx context.Context, c *Call) int {
	d := download{method: "GET", header: map[string]string{}, out: "-", mayFail: true}
	var short []string
	for i := 0; i < len(c.Args); i++ {
		a := c.Args[i]
		value := func() string {
			if i+1 < len(c.Args) {
				i++
			}
			return c.Args[i]
		}
		switch a {
		case "-X", "--request":
			d.method = value()
		case "-H", "--header":
			setHeader(d.header, value())
		case "-o", "--output":
			d.out = value()
		case "--fail":
			d.mayFail = false
		case "--silent", "--show-error":
		case "-m", "--max-time":
			seconds, err := strconv.ParseFloat(value(), 64)
			if err != nil || seconds < 0 {
				return c.usage("-m takes seconds")
			}
			d.most = time.Duration(seconds * float64(time.Second))
		case "--connect-timeout", "--retry", "--noproxy":
			value()
		default:
			if !strings.HasPrefix(a, "-") {
				d.url = a
			} else {
				short = append(short, a)
			}
		}
	}
	set, _, err := options(short, "sSfiIL")
	if err != nil || d.url == "" {
		return c.usage("[-sSfiI] [-m SECONDS] [-X METHOD] [-H HEADER]... [-o FILE] http://ADDRESS/PATH")
	}
	if has(set, 'f') {
		d.mayFail = false
	}
	if has(set, 'I') {
		d.method, d.head = "HEAD", true
	}
	if has(set, 'i') {
		d.head = true
	}
	d.quiet = has(set, 's') && !has(set, 'S')
	return d.do(ctx, c)
}

func wget(ctx context.Context, c *Call) int {
	d := download{method: "GET", header: map[string]string{}}
	var short []string
	for i := 0; i < len(c.Args); i++ {
		a := c.Args[i]
		switch {
		case strings.HasPrefix(a, "--method="):
			d.method = a[len("--method="):]
		case strings.HasPrefix(a, "--header="):
			setHeader(d.header, a[len("--header="):])
		case a == "--header" && i+1 < len(c.Args):
			i++
			setHeader(d.header, c.Args[i])
		case a == "-O" && i+1 < len(c.Args):
			i++
			d.out = c.Args[i]
		case strings.HasPrefix(a, "-") && strings.HasSuffix(a, "O-") && len(a) > 2:
			d.out = "-"
			short = append(short, strings.TrimSuffix(a, "O-"))
		case strings.HasPrefix(a, "-") && strings.HasSuffix(a, "O") && !strings.HasPrefix(a, "--") && i+1 < len(c.Args):
			i++
			d.out = c.Args[i]
			short = append(short, strings.TrimSuffix(a, "O"))
		case strings.HasPrefix(a, "--timeout="), strings.HasPrefix(a, "--tries="), a == "--quiet":
			d.quiet = d.quiet || a == "--quiet"
		case strings.HasPrefix(a, "-"):
			short = append(short, a)
		default:
			d.url = a
		}
	}
	set, _, err := options(short, "qST:t:")
	if err != nil || d.url == "" {
		return c.usage("[-q] [-O FILE] [--method=METHOD] [--header=HEADER]... http://ADDRESS/PATH")
	}
	d.quiet = d.quiet || has(set, 'q')
	if d.out == "" {
		if d.out = path.Base(d.url); strings.HasSuffix(d.url, "/") {
			d.out = "index.html"
		}
	}
	return d.do(ctx, c)
}
