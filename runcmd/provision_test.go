package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/userdata"
)

func TestCloudInitIsLeftToWork(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  bool
	}{
		{"none is installed", map[string]string{}, false},
		{"it is installed", map[string]string{"usr/bin/cloud-init": "", "proc/cmdline": "quiet"}, true},
		{"it is turned off by its file", map[string]string{"usr/bin/cloud-init": "", "etc/cloud/cloud-init.disabled": ""}, false},
		{"it is turned off by the kernel's command line", map[string]string{"usr/bin/cloud-init": "", "proc/cmdline": "quiet cloud-init=disabled\n"}, false},
		{"it found no cloud", map[string]string{"usr/bin/cloud-init": "", "run/cloud-init/disabled": ""}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := cloudInitEnabled(root); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestIncludesAreReadWithinBounds(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/part":
			w.Write([]byte("#!/bin/sh\n"))
		case "/large":
			w.Write(make([]byte, userdata.MaxUnpacked+1))
		default:
			w.WriteHeader(404)
		}
	}))
	defer server.Close()
	if got, err := getURL(t.Context(), server.URL+"/part"); err != nil || string(got) != "#!/bin/sh\n" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, c := range []struct{ name, url, says string }{
		{"too large", server.URL + "/large?secret", "more than 16 MiB"},
		{"not there", server.URL + "/none?secret", "HTTP 404"},
		{"a file", "file:///etc/shadow?secret", "only http and https"},
		{"no URL", "http://a b?secret", "only http and https"},
	} {
		if _, err := getURL(t.Context(), c.url); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v; want %q without the secret", c.name, err, c.says)
		}
	}
}
