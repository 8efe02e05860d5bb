package provision

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/userdata/jinja"
)

// service answers as the metadata service does for one instance; imds has the real one, in another building.
func service(t *testing.T, change func(leaves map[string]string)) Source {
	leaves := map[string]string{"meta-data/": "ami-launch-index\niam/\ninstance-id\nlocal-hostname\nlocal-ipv4s\nplacement/\npublic-keys/",
		"meta-data/instance-id": "i-1", "meta-data/local-hostname": "ip-10-0-0-5", "meta-data/ami-launch-index": "2", "meta-data/local-ipv4s": "10.0.0.5\n10.0.0.6",
		"meta-data/placement/": "region", "meta-data/placement/region": "ichiro-1",
		"meta-data/public-keys/": "0=one\n1=two", "meta-data/public-keys/0/": "openssh-key", "meta-data/public-keys/1/": "openssh-key",
		"meta-data/public-keys/0/openssh-key": "ssh-rsa A one\n", "meta-data/public-keys/1/openssh-key": "ssh-rsa B two\n", "user-data": "#!/bin/sh\n\x00\xff"}
	change(leaves)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := leaves[strings.TrimPrefix(r.URL.Path, "/latest/")]
		switch {
		case r.Method == http.MethodPut && leaves["refuse"] == "":
			fmt.Fprint(w, "token")
		case r.Method == http.MethodPut:
			w.WriteHeader(403)
		case r.Header.Get("X-aws-ec2-metadata-token") != "token":
			w.WriteHeader(401)
		case !ok:
			w.WriteHeader(404)
		default:
			fmt.Fprint(w, body)
		}
	}))
	t.Cleanup(server.Close)
	return Source{Server: netip.MustParseAddrPort(strings.TrimPrefix(server.URL, "http://")), Root: t.TempDir(), Patience: 5 * time.Second}
}

func TestSourceReadsTheInstance(t *testing.T) {
	s := service(t, func(map[string]string) {})
	in, err := s.Read(t.Context())
	if err != nil || in.ID != "i-1" || in.Hostname != "ip-10-0-0-5" || in.LaunchIndex != "2" || string(in.UserData) != "#!/bin/sh\n\x00\xff" ||
		strings.Join(in.Keys, ",") != "ssh-rsa A one,ssh-rsa B two" {
		t.Errorf("got %+v, %v", in, err)
	}
	data, err := in.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const template = "## template: jinja\n{{ v1.region }} {{ region }} {{ ds.meta_data.local_ipv4s[1] }} {{ ds.meta_data['public-keys']['1']['openssh-key'] }} {{ v1.public_ssh_keys[0] }} {{ instance_id }}"
	got, missing, err := jinja.Render(template, data)
	if want := "ichiro-1 ichiro-1 10.0.0.6 ssh-rsa B two ssh-rsa A one i-1"; err != nil || len(missing) > 0 || got != want {
		t.Errorf("got  %s, %v, %v\nwant %s", got, missing, err, want)
	}
}

func TestSourceWithoutUserDataAndKeys(t *testing.T) {
	s := service(t, func(l map[string]string) { delete(l, "user-data"); delete(l, "meta-data/public-keys/") })
	if in, err := s.Read(t.Context()); err != nil || len(in.UserData) > 0 || len(in.Keys) > 0 {
		t.Errorf("got %+v, %v", in, err)
	}
}

func TestSourceGivesUpWhereThereIsNoUse(t *testing.T) {
	for name, change := range map[string]func(map[string]string){
		"the endpoint is off":     func(l map[string]string) { l["refuse"] = "yes" },
		"there is no instance id": func(l map[string]string) { delete(l, "meta-data/instance-id") },
	} {
		if _, err := service(t, change).Read(t.Context()); !errors.Is(err, errRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	endless := service(t, func(l map[string]string) { l["meta-data/"] = strings.Repeat("a\n", 2*maxLeaves) })
	if _, err := endless.data(t.Context()); !errors.Is(err, errRefused) {
		t.Errorf("a tree without end: got %v", err)
	}
}
