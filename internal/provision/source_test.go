package provision

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/userdata/jinja"
	"github.com/ichiro-metal/ichiro/internal/userdata/yaml"
)

// service answers as the metadata service does for one instance; imds has the real one, in another building.
func service(t *testing.T, change func(leaves map[string]string)) Source {
	leaves := map[string]string{"meta-data/": "ami-launch-index\niam/\ninstance-id\nlocal-hostname\nlocal-ipv4s\nplacement/\npublic-keys/",
		"meta-data/instance-id": "i-1", "meta-data/local-hostname": "ip-10-0-0-5", "meta-data/ami-launch-index": "2", "meta-data/local-ipv4s": "10.0.0.5\n10.0.0.6",
		"meta-data/placement/": "region", "meta-data/placement/region": "ichiro-1",
		"meta-data/public-keys/": "0=one\n1=two", "meta-data/public-keys/0/": "openssh-key", "meta-data/public-keys/1/": "openssh-key",
		"meta-data/public-keys/0/openssh-key": "ssh-rsa A one\n", "meta-data/public-keys/1/openssh-key": "ssh-rsa B two\n", "user-data": "#!/bin/sh\n\x00\xff",
		"meta-data/iam/": "info\nsecurity-credentials/", "meta-data/iam/info": "{\n  \"Code\" : \"Success\"\n}", "meta-data/iam/security-credentials/": "never asked for",
		"dynamic/instance-identity/": "document\nsignature", "dynamic/instance-identity": "document\nsignature",
		"dynamic/instance-identity/document": `{"accountId" : "123456789012", "kernelId" : null}`, "dynamic/instance-identity/signature": "AA\nBB"}
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
	if err != nil || in.ID != "i-1" || in.Hostname != "ip-10-0-0-5" || in.LaunchIndex != "2" || in.Region != "ichiro-1" || string(in.UserData) != "#!/bin/sh\n\x00\xff" ||
		strings.Join(in.Keys, ",") != "ssh-rsa A one,ssh-rsa B two" {
		t.Errorf("got %+v, %v", in, err)
	}
	data, err := in.Data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const template = "## template: jinja\n{{ v1.region }} {{ region }} {{ ds.meta_data.local_ipv4s[1] }} {{ ds.meta_data.public_keys.two[0] }} {{ ds.dynamic.instance_identity.document.accountId }} {{ v1.public_ssh_keys[0] }} {{ instance_id }}"
	got, missing, err := jinja.Render(template, data)
	if want := "ichiro-1 ichiro-1 10.0.0.6 ssh-rsa B two 123456789012 ssh-rsa A one i-1"; err != nil || len(missing) > 0 || got != want {
		t.Errorf("got  %s, %v, %v\nwant %s", got, missing, err, want)
	}
}

// A template that works with cloud-init works here: its own code reads the same service, and names what it has for all clouds.
func TestCloudInitHasTheSameData(t *testing.T) {
	const packages = "/usr/local/lib/ichiro/cloud-init/usr/lib/python3/dist-packages"
	if _, err := os.Stat(packages); err != nil {
		t.Skip("no cloud-init to compare with: deploy/scripts/needs test unpacks it")
	}
	s := service(t, func(l map[string]string) {
		delete(l, "meta-data/iam/security-credentials/") // which makes it a fault to ask
		l["meta-data/iam/"] = "info\nsecurity-credentials/"
	})
	data, err := s.data(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", `
import json, sys, types
from cloudinit import sources, util
from cloudinit.sources.helpers import ec2
url = sys.argv[1]
token = lambda u: {"X-aws-ec2-metadata-token": "token"}
got = {"meta_data": ec2.get_instance_metadata("latest", url, headers_cb=token, retries=0),
       "dynamic": {"instance-identity": ec2.get_instance_identity("latest", url, headers_cb=token, retries=0)}}
class Source(sources.DataSource):
    def __init__(self): pass
    dsname, metadata, cloud_name, platform_type, subplatform = "Ec2", got["meta_data"], "aws", "ec2", ""
    def get_public_ssh_keys(self): return []
    availability_zone = region = ""
names = Source()._get_standardized_metadata({"sys_info": util.system_info()})["v1"]
print(json.dumps({"ds": got, "v1": sorted(names), "sys_info": sorted(util.system_info())}))`, "http://"+s.Server.String())
	cmd.Env = append(os.Environ(), "no_proxy=*", "PYTHONPATH="+packages)
	cmd.Stderr = os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatalf("ask cloud-init: %v", err)
	}
	var want struct {
		DS       any `json:"ds"`
		V1       []string
		Sys_info []string
	}
	if err := json.Unmarshal(answer, &want); err != nil {
		t.Fatal(err)
	}
	if got := plain(data.Get("ds")); !reflect.DeepEqual(got, want.DS) {
		t.Errorf("ds is\n%v\nof cloud-init\n%v", got, want.DS)
	}
	for place, names := range map[string][]string{"v1": want.V1, "sys_info": want.Sys_info} {
		for _, name := range names {
			if data.Get(place).Get(name) == nil && !slices.Contains([]string{"python", "python_version", "_beta_keys"}, name) { // there is no Python
				t.Errorf("%s has no %s", place, name)
			}
		}
	}
}

// plain is a value as the JSON package has it.
func plain(v *yaml.Value) any {
	switch v.Kind {
	case yaml.Map:
		m := map[string]any{}
		for _, e := range v.Map {
			m[e.Key.Text] = plain(e.Value)
		}
		return m
	case yaml.List:
		list := []any{}
		for _, item := range v.List {
			list = append(list, plain(item))
		}
		return list
	case yaml.Null:
		return nil
	}
	return v.Text
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
