package mgs_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheGuestsScriptWritesWhatTheStockAgentNeeds(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("no curl here")
	}
	s := newSite(t)
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "PUT" {
			w.Write([]byte("token"))
		} else if r.URL.Path == "/meta-data/placement/region" && r.Header.Get("X-aws-ec2-metadata-token") == "token" {
			w.Write([]byte("local"))
		}
	}))
	defer imds.Close()
	root := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(root, "etc/systemd/system"), 0o755))
	for range 2 { // each start of the agent runs it
		cmd := exec.Command("sh", "../../packaging/guest/ichiro-ssm-agent")
		cmd.Env = append(os.Environ(), "ROOT="+root, "ICHIRO_GATEWAY=http://"+s.ours, "ICHIRO_IMDS="+imds.URL)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	read := func(path string) string {
		b, err := os.ReadFile(filepath.Join(root, path))
		check(t, err)
		return string(b)
	}
	var config struct{ Mgs, Ssm struct{ Endpoint string } }
	check(t, json.Unmarshal([]byte(read("etc/amazon/ssm/amazon-ssm-agent.json")), &config))
	if config.Mgs.Endpoint != "https://"+name {
		t.Errorf("got %q, want the name that the certificate is for", config.Mgs.Endpoint)
	}
	if info, err := os.Stat(filepath.Join(root, "etc/amazon/ssm/amazon-ssm-agent.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v: the agent takes a configuration of mode 0600 only", info.Mode(), err)
	}
	if got := read("etc/hosts"); strings.Count(got, "\n") != 1 || !strings.Contains(got, " "+name+" ") {
		t.Errorf("got %q", got)
	}
	if got := read("etc/amazon/ssm/ichiro-authority.pem"); !strings.Contains(got, "BEGIN CERTIFICATE") || strings.Contains(got, "KEY") {
		t.Errorf("got %q", got)
	}
}
