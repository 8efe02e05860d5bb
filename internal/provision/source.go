package provision

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/fetch"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// Source is the metadata service.
type Source struct {
	Server   netip.AddrPort
	Root     string        // where os-release is
	Patience time.Duration // while the service is not there, or busy
}

// errRefused is an answer after which there is no use in asking again.
var errRefused = errors.New("the metadata service refuses")

// Read learns what the instance is, patiently.
func (s Source) Read(ctx context.Context) (Instance, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Patience)
	defer cancel()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		in, err := s.read(ctx)
		if err == nil || errors.Is(err, errRefused) {
			return in, err
		}
		select {
		case <-ctx.Done():
			return in, err
		case <-time.After(wait):
		}
	}
}

func (s Source) read(ctx context.Context) (Instance, error) {
	a, err := s.open(ctx)
	if err != nil {
		return Instance{}, err
	}
	const m = "meta-data/"
	got, err := a.get(ctx, m+"instance-id", m+"local-hostname", m+"ami-launch-index", m+"public-keys/", "user-data", m+"placement/region")
	if err != nil {
		return Instance{}, err
	}
	if got[0] == nil {
		return Instance{}, fmt.Errorf("%w: there is no instance-id", errRefused)
	}
	in := Instance{ID: string(got[0]), Hostname: strings.TrimSpace(string(got[1])), LaunchIndex: strings.TrimSpace(string(got[2])), UserData: got[4], Data: s.data, Region: strings.TrimSpace(string(got[5]))}
	var paths []string
	for line := range strings.Lines(string(got[3])) {
		number, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		paths = append(paths, m+"public-keys/"+number+"/openssh-key")
	}
	if len(paths) == 0 {
		return in, nil
	}
	keys, err := a.get(ctx, paths...)
	if err != nil {
		return Instance{}, err
	}
	for _, k := range keys {
		if key := strings.TrimSpace(string(k)); key != "" {
			in.Keys = append(in.Keys, key)
		}
	}
	return in, nil
}

// asker has a token.
type asker struct {
	client fetch.Client
	token  string
}

func (s Source) open(ctx context.Context) (asker, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a := asker{client: fetch.Client{Server: s.Server}}
	got, err := a.client.Do(ctx, fetch.Request{Method: "PUT", Path: "/latest/api/token", Header: map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "300"}})
	if err != nil {
		return a, err
	}
	if err := judge("api/token", got[0].Status); err != nil {
		return a, err
	}
	a.token = string(got[0].Body)
	return a, nil
}

// get reads what is below latest; nil for what is not there.
func (a asker) get(ctx context.Context, paths ...string) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	requests := make([]fetch.Request, len(paths))
	for i, p := range paths {
		requests[i] = fetch.Request{Method: "GET", Path: "/latest/" + p, Header: map[string]string{"X-aws-ec2-metadata-token": a.token}}
	}
	answers, err := a.client.Do(ctx, requests...)
	if err != nil {
		return nil, err
	}
	bodies := make([][]byte, len(paths))
	for i, got := range answers {
		if got.Status == 404 {
			continue
		}
		if err := judge(paths[i], got.Status); err != nil {
			return nil, err
		}
		bodies[i] = append([]byte{}, got.Body...)
	}
	return bodies, nil
}

// judge tells a service that is busy from one that refuses.
func judge(path string, status int) error {
	switch {
	case status == 200:
		return nil
	case status == 429 || status >= 500:
		return fmt.Errorf("metadata %s: HTTP %d", path, status)
	}
	return fmt.Errorf("%w: %s: HTTP %d", errRefused, path, status)
}

const (
	maxLeaves = 1000 // of the whole tree, which has about a hundred
	maxLevels = 10
)

// data is what templates may use: cloud-init's names, and below ds the whole tree of the metadata and the identity document.
func (s Source) data(ctx context.Context) (*yaml.Value, error) {
	a, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	c := crawl{asker: a, left: maxLeaves}
	tree, err := c.directory(ctx, "meta-data/", maxLevels)
	if err != nil {
		return nil, err
	}
	identity, err := c.directory(ctx, "dynamic/instance-identity/", maxLevels)
	if err != nil {
		return nil, err
	}
	return mapping("v1", s.standard(tree), "ds", mapping("meta_data", tree, "dynamic", mapping("instance-identity", identity)),
		"sys_info", system(s.Root), "cloud_name", text("aws")), nil
}

// standard are the names that all clouds have.
func (s Source) standard(tree *yaml.Value) *yaml.Value {
	leaf := func(names ...string) *yaml.Value {
		v := tree
		for _, n := range names {
			v = v.Get(n)
		}
		if v == nil {
			v = text("")
		}
		return v
	}
	keys := &yaml.Value{Kind: yaml.List}
	if k := tree.Get("public-keys"); k != nil {
		for _, e := range k.Map {
			keys.List = append(keys.List, e.Value.List...)
		}
	}
	host, _, _ := strings.Cut(leaf("local-hostname").Str(), ".")
	sys := system(s.Root)
	dist := sys.Get("dist").List
	v1 := mapping("cloud_id", text("aws"), "platform", text("ec2"), "subplatform", text("metadata (http://"+s.Server.Addr().String()+")"),
		"region", leaf("placement", "region"), "public_ssh_keys", keys, "distro", dist[0], "distro_version", dist[1], "distro_release", dist[2],
		"kernel_release", sys.Get("release"), "machine", sys.Get("uname").List[4], "system_platform", sys.Get("platform"), "variant", sys.Get("variant"))
	for name, v := range map[string]*yaml.Value{"cloud-name": text("aws"), "instance-id": leaf("instance-id"), "local-hostname": text(host),
		"availability-zone": leaf("placement", "availability-zone")} {
		v1.Map = append(v1.Map, mapping(name, v, strings.ReplaceAll(name, "-", "_"), v).Map...)
	}
	return v1
}

// system is what there is to say of the machine, in Python's forms.
func system(root string) *yaml.Value {
	var u unix.Utsname
	_ = unix.Uname(&u) // cannot fail
	word := func(b []byte) *yaml.Value { return text(unix.ByteSliceToString(b)) }
	release, machine := word(u.Release[:]), word(u.Machine[:])
	file := filepath.Join(root, "/etc/os-release")
	distro := text(released(file, "ID"))
	list := func(v ...*yaml.Value) *yaml.Value { return &yaml.Value{Kind: yaml.List, List: v} }
	return mapping("system", text("Linux"), "release", release, "platform", text("Linux-"+release.Text+"-"+machine.Text), "variant", distro,
		"uname", list(text("Linux"), word(u.Nodename[:]), release, word(u.Version[:]), machine, text("")),
		"dist", list(distro, text(released(file, "VERSION_ID")), text(released(file, "VERSION_CODENAME"))))
}

func text(s string) *yaml.Value { return &yaml.Value{Kind: yaml.String, Text: s} }

// mapping is of names and values in turn.
func mapping(pairs ...any) *yaml.Value {
	v := &yaml.Value{Kind: yaml.Map}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Map = append(v.Map, yaml.Entry{Key: text(pairs[i].(string)), Value: pairs[i+1].(*yaml.Value)})
	}
	return v
}

// crawl reads the tree.
type crawl struct {
	asker
	left int
}

// directory reads one and what is in it. Credentials are not entered: templates end in files.
func (c *crawl) directory(ctx context.Context, path string, levels int) (*yaml.Value, error) {
	got, err := c.get(ctx, path)
	if err != nil {
		return nil, err
	}
	v := &yaml.Value{Kind: yaml.Map}
	var leaves []string
	for line := range strings.Lines(string(got[0])) {
		name := strings.TrimSpace(line)
		if c.left--; c.left < 0 || levels == 0 {
			return nil, fmt.Errorf("%w: the tree has more than %d leaves or %d levels", errRefused, maxLeaves, maxLevels)
		}
		dir, isDir := strings.CutSuffix(name, "/")
		switch {
		case dir == "security-credentials" || dir == "":
		case isDir:
			sub, err := c.directory(ctx, path+name, levels-1)
			if err != nil {
				return nil, err
			}
			v.Map = append(v.Map, yaml.Entry{Key: text(dir), Value: sub})
		default:
			leaves = append(leaves, name)
		}
	}
	if len(leaves) == 0 {
		return v, nil
	}
	paths := make([]string, len(leaves))
	for i, name := range leaves {
		paths[i] = path + name
		if number, key, ok := strings.Cut(name, "="); ok && strings.HasSuffix(path, "public-keys/") {
			paths[i], leaves[i] = path+number+"/openssh-key", key
		}
	}
	bodies, err := c.get(ctx, paths...)
	if err != nil {
		return nil, err
	}
	for i, body := range bodies {
		v.Map = append(v.Map, yaml.Entry{Key: text(leaves[i]), Value: leafOf(string(body))})
	}
	return v, nil
}

// leafOf is a text, a list of its lines if one of them ends, or what an object in JSON says.
func leafOf(body string) *yaml.Value {
	if t := strings.TrimSpace(body); strings.HasPrefix(t, "{") && strings.HasSuffix(t, "}") {
		if doc, err := yaml.Load([]byte(t)); err == nil { // which JSON is
			return doc.Root
		}
	}
	if !strings.Contains(body, "\n") {
		return text(body)
	}
	v := &yaml.Value{Kind: yaml.List}
	for line := range strings.Lines(body) {
		v.List = append(v.List, text(strings.TrimRight(line, "\r\n")))
	}
	return v
}
