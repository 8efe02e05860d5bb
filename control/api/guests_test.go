package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/origin"
)

// carrier is a way to a front's socket for guests. What head writes goes before a guest's first byte.
func carrier(t *testing.T, cfg Config, uid int, head func(net.Conn)) string {
	t.Helper()
	cfg.Authority, cfg.Log = anyone{}, slog.New(slog.DiscardHandler)
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "guests")
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Serve(ctx, Guests(socket.(*net.UnixListener), cfg.Log, uint32(uid))) })
	running.Go(func() {
		for {
			guest, err := door.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer guest.Close()
				api, err := net.Dial("unix", path)
				if err != nil {
					t.Error(err)
					return
				}
				defer api.Close()
				head(api)
				go func() { io.Copy(api, guest); api.(*net.UnixConn).CloseWrite() }()
				io.Copy(guest, api)
			})
		}
	})
	t.Cleanup(func() { door.Close(); cancel(); http.DefaultClient.CloseIdleConnections(); running.Wait() })
	return "http://" + door.Addr().String()
}

var someGuest = origin.Guest{Instance: "i-0123456789abcdef0", VPC: "vpc-0123456789abcdef0", From: netip.MustParseAddrPort("172.31.0.10:40000")}

func TestAGuestsCallIsRecordedAsTheGuests(t *testing.T) {
	var audit bytes.Buffer
	url := carrier(t, Config{Region: "ichiro-1", Services: small(new(int)), Audit: &audit}, os.Getuid(), func(c net.Conn) {
		if err := origin.Write(c, someGuest); err != nil {
			t.Error(err)
		}
	})
	for _, forge := range []func(*http.Request){
		nil,
		func(r *http.Request) {
			r.Header.Set("X-Forwarded-For", "192.0.2.1")
			r.Header.Set("Forwarded", "for=192.0.2.1")
		},
	} {
		if status, text := (ask{body: "Action=StartInstances&Version=2016-11-15&InstanceId.1=i-1", tamper: forge}).do(t, url); status != http.StatusOK {
			t.Fatalf("got %d %s", status, text)
		}
	}
	lines := strings.Split(strings.TrimSpace(audit.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %d lines: %s", len(lines), audit.String())
	}
	for _, line := range lines {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Source != "172.31.0.10" || l.Instance != "i-0123456789abcdef0" {
			t.Errorf("got %s, %v", line, err)
		}
	}
}

func TestWhoIsNoCarrierIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  int
		head func(net.Conn)
	}{
		{"another user who says to be a guest", os.Getuid() + 1, func(c net.Conn) { origin.Write(c, someGuest) }},
		{"one who says not for whom", os.Getuid(), func(net.Conn) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := carrier(t, Config{Region: "ichiro-1", Services: small(new(int))}, c.uid, c.head)
			guest, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer guest.Close()
			guest.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(guest, "GET /?Action=DescribeRegions&Version=2016-11-15 HTTP/1.1\r\nHost: a\r\n\r\n"+strings.Repeat(" ", 255))
			if got, _ := io.ReadAll(guest); len(got) > 0 {
				t.Errorf("got %q", got)
			}
		})
	}
}
