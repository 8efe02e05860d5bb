package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
	"github.com/ichiro-metal/ichiro/runcmd/machine"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const aMachine = cloud.InstanceID("mi-0123456789abcdef0")

// machines has the gateway of a host take machines, and returns where and its certificate's file.
func (h *host) machines(args ...string) (address string, certificate *x509.Certificate) {
	h.t.Helper()
	dir := filepath.Join(string(h.root), "identity")
	check(h.t, os.MkdirAll(dir, 0o755))
	check(h.t, os.WriteFile(filepath.Join(dir, "host"), []byte("h-1\n"), 0o644))
	h.startGateway(append(args, "--machines", "127.0.0.1:0", "--identity", dir, "--host", filepath.Join(dir, "host"))...)
	file := filepath.Join(dir, "address")
	h.until("the gateway says where machines come", func() bool { // the last thing before they are taken
		data, err := os.ReadFile(file)
		address = strings.TrimSpace(string(data))
		return err == nil
	})
	data, err := os.ReadFile(filepath.Join(dir, "certificate.pem"))
	check(h.t, err)
	block, _ := pem.Decode(data)
	certificate, err = x509.ParseCertificate(block.Bytes)
	check(h.t, err)
	return address, certificate
}

// until waits for what files or logs tell.
func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) { // a guard
			h.t.Fatalf("it does not happen that %s", what)
		}
	}
}

// registered makes a machine of a host's agent, as Register leaves it, and returns the name of its key.
func registered(t *testing.T, state string, m machine.Machine) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	m.Key, err = x509.MarshalPKCS8PrivateKey(key)
	check(t, err)
	data, err := json.Marshal(m)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(state, "machine.json"), data, 0o600))
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	check(t, err)
	return enrol.KeyOf(&x509.Certificate{RawSubjectPublicKeyInfo: public})
}

// A machine that is no guest comes over TLS: commands run in it, over kills of all that may die, and when it is forgotten it is
// hung up on and let in no more.
func TestAMachineComesOverTLS(t *testing.T) {
	t.Parallel()
	h := newHostOf(t, aMachine)
	address, certificate := h.machines()
	key := registered(t, h.state, machine.Machine{Instance: aMachine, Gateway: address, Server: enrol.KeyOf(certificate)})
	check(t, bundle.Write(h.dir.Path(bundle.NodeFile), bundle.Node{Instance: aMachine, Key: key}, 0o644))
	h.startAgent()
	id := h.send("echo I am $AWS_SSM_INSTANCE_ID")
	if inv := h.end(id); inv.Status != cloud.InvocationSuccess || h.output(id, wire.Stdout) != "I am "+string(aMachine)+"\n" {
		t.Fatalf("got %+v and %q", inv, h.output(id, wire.Stdout))
	}
	if p, err := h.dir.Agent(); err == nil && p.Address != "127.0.0.1" {
		t.Errorf("got the address %q", p.Address)
	}
	long := h.send("echo begun; exec sleep 0.3")
	h.printed(long)
	kill(h.gateway)
	again := filepath.Join(string(h.root), "identity")
	h.startGateway("--machines", address, "--identity", again, "--host", filepath.Join(again, "host"))
	if inv := h.end(long); inv.Status != cloud.InvocationSuccess {
		t.Errorf("got %+v over the gateway's death", inv)
	}
	check(t, os.RemoveAll(string(h.dir))) // it was deregistered
	h.until("the machine is let in no more", func() bool {
		return strings.Contains(h.log.String(), "not connected") && strings.Contains(h.log.String(), "403")
	})
}

// Sessions of a machine are as those of a guest, over TLS: also when its gateway is killed.
func TestSessionsOfAMachine(t *testing.T) {
	t.Parallel()
	h := newSessionHostOf(t, newHostOf(t, aMachine))
	address, certificate := h.machines("--sessions", h.records)
	key := registered(t, h.state, machine.Machine{Instance: aMachine, Gateway: address, Server: enrol.KeyOf(certificate)})
	check(t, bundle.Write(h.dir.Path(bundle.NodeFile), bundle.Node{Instance: aMachine, Key: key}, 0o644))
	h.startAgent()
	id, cfg := h.begin(cloud.SessionPlan{Kind: cloud.SessionShell})
	c := converse(t, cfg)
	c.say("stty -echo; PS1=; V=kept\r")
	c.say("echo before-$V\r")
	c.await("before-kept")
	kill(h.gateway)
	identity := filepath.Join(string(h.root), "identity")
	h.startGateway("--sessions", h.records, "--machines", address, "--identity", identity, "--host", filepath.Join(identity, "host"))
	c.say("echo after-$V; exit 9\r")
	c.await("after-kept")
	if code, _ := c.wait(); code != 9 {
		t.Errorf("got code %d, want 9", code)
	}
	if end := h.record(id); end.Reason != "exit" || end.Code != 9 {
		t.Errorf("got the record %+v", end)
	}
	port, want := source(t, 8<<20)
	conn, err := net.Dial("tcp", h.forwardOurs(cloud.SessionPlan{Kind: cloud.SessionPort, Port: port}))
	check(t, err)
	defer conn.Close()
	sum := sha256.New()
	if n, err := io.Copy(sum, conn); err != nil || [32]byte(sum.Sum(nil)) != want {
		t.Errorf("through a port came %d bytes, %v, not those that were sent", n, err)
	}
}

// A machine that opens connection after connection takes none from the others, and who is no machine does not stay.
func TestMachinesDoNotTakeEachOthersConnections(t *testing.T) {
	t.Parallel()
	h := newHostOf(t, aMachine)
	address, certificate := h.machines()
	const another = cloud.InstanceID("mi-0123456789abcdef1")
	load := func(id cloud.InstanceID) *machine.Machine {
		state := t.TempDir()
		key := registered(t, state, machine.Machine{Instance: id, Gateway: address, Server: enrol.KeyOf(certificate)})
		dir := h.root.Instance(id)
		check(t, os.MkdirAll(string(dir), 0o755))
		check(t, bundle.Write(dir.Path(bundle.NodeFile), bundle.Node{Instance: id, Key: key}, 0o644))
		m, err := machine.Load(state)
		check(t, err)
		return m
	}
	greedy, modest := load(aMachine), load(another)
	refused := error(nil)
	for n := 0; n < 200 && refused == nil; n++ { // none says who it is, so none fences another
		conn, err := greedy.Dialer().Dial(t.Context(), greedy.URL())
		if refused = err; err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	if refused == nil || !strings.Contains(refused.Error(), "503") {
		t.Errorf("two hundred connections of a machine: got %v", refused)
	}
	conn, err := modest.Dialer().Dial(t.Context(), modest.URL())
	if err != nil {
		t.Fatalf("another machine: %v", err)
	}
	conn.Close()

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	own := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, own, own, &key.PublicKey, key)
	check(t, err)
	c, err := tls.Dial("tcp", address, &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	check(t, err)
	defer c.Close()
	fmt.Fprintf(c, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
	check(t, c.SetReadDeadline(time.Now().Add(4*time.Second)))
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("a stranger who asks for something stays: %v", err)
	}
}

// A host that was booted again has lost what its gateway knew, and asks a machine, which has gone on, for all that it has no end of:
// what has ended does not run again, and what runs goes on.
func TestAHostThatForgotAsksAMachineAgain(t *testing.T) {
	t.Parallel()
	h := newHostOf(t, aMachine)
	address, certificate := h.machines()
	key := registered(t, h.state, machine.Machine{Instance: aMachine, Gateway: address, Server: enrol.KeyOf(certificate)})
	check(t, bundle.Write(h.dir.Path(bundle.NodeFile), bundle.Node{Instance: aMachine, Key: key}, 0o644))
	h.startAgent()
	side := filepath.Join(t.TempDir(), "side")
	gate := filepath.Join(t.TempDir(), "gate")
	check(t, unix.Mkfifo(gate, 0o600))
	ended := h.send("echo ended >> " + side)
	h.end(ended)
	h.until("its end is acknowledged", func() bool {
		_, err := os.Stat(filepath.Join(h.state, "commands", string(ended)))
		return os.IsNotExist(err)
	})
	runs := h.send("echo runs >> " + side + "; echo begun; read x < " + gate + "; echo over")
	h.printed(runs)
	again := map[cloud.CommandID]bundle.CommandRequest{}
	for _, id := range []cloud.CommandID{ended, runs} {
		data, err := os.ReadFile(h.dir.Path("commands", string(id), "request.json"))
		check(t, err)
		var req bundle.CommandRequest
		check(t, json.Unmarshal(data, &req))
		again[id] = req
	}
	kill(h.gateway)
	for id, req := range again { // as agent/host does before it lets machines in
		check(t, h.dir.RemoveCommand(id))
		check(t, h.dir.PutCommand(req))
	}
	identity := filepath.Join(string(h.root), "identity")
	h.startGateway("--machines", address, "--identity", identity, "--host", filepath.Join(identity, "host"))
	if inv := h.end(ended); inv.Details != "Interrupted" {
		t.Errorf("what had ended: got %+v, want Interrupted", inv)
	}
	check(t, os.WriteFile(gate, []byte("go\n"), 0)) // waits for the script to read
	if inv := h.end(runs); inv.Status != cloud.InvocationSuccess {
		t.Errorf("what ran: got %+v", inv)
	}
	if ran, err := os.ReadFile(side); err != nil || string(ran) != "ended\nruns\n" {
		t.Errorf("ran %q, %v; want each once", ran, err)
	}
}

// Who may not come, and what they are told.
func TestMachinesThatMayNotCome(t *testing.T) {
	t.Parallel()
	h := newHostOf(t, aMachine)
	address, certificate := h.machines()
	own, other := t.TempDir(), t.TempDir()
	known := machine.Machine{Instance: aMachine, Gateway: address, Server: enrol.KeyOf(certificate)}
	key := registered(t, own, known)
	check(t, bundle.Write(h.dir.Path(bundle.NodeFile), bundle.Node{Instance: aMachine, Key: key}, 0o644))
	guest := cloud.InstanceID("i-0123456789abcdef0")
	check(t, os.MkdirAll(string(h.root.Instance(guest)), 0o755))

	dial := func(state string) error {
		m, err := machine.Load(state)
		check(t, err)
		conn, err := m.Dialer().Dial(t.Context(), m.URL())
		if err == nil {
			conn.Close()
		}
		return err
	}
	if err := dial(own); err != nil {
		t.Fatalf("the machine itself: %v", err)
	}
	registered(t, other, known)
	if err := dial(other); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("another key with the machine's name: got %v", err)
	}
	for name, id := range map[string]cloud.InstanceID{
		"a machine that is not known": "mi-00000000000000000", "a guest's name": guest, "a path": "../../" + cloud.InstanceID(filepath.Base(own)), "no name": "mi-",
	} {
		m := known
		m.Instance = id
		registered(t, other, m)
		if err := dial(other); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	m := known
	m.Server = strings.Repeat("0", 64)
	registered(t, other, m)
	if err := dial(other); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another gateway: got %v", err)
	}
	// Without a key, or without TLS, there is nobody to talk to.
	plain := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for _, url := range []string{"https://" + address + wire.Path, "http://" + address + wire.Path, "https://" + address + enrol.Path} {
		resp, err := plain.Get(url)
		if err != nil {
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%s without a key: got %s", url, resp.Status)
		}
	}
	// The control plane is away: that is said, and nothing is lost.
	certFile := filepath.Join(string(h.root), "identity", "certificate.pem")
	data, err := os.ReadFile(certFile)
	check(t, err)
	fresh := t.TempDir()
	if _, err := machine.Register(t.Context(), fresh, address, data, "a", "b"); err == nil || !strings.Contains(err.Error(), "try again") {
		t.Errorf("registered without a control plane: got %v", err)
	}
	before, err := os.ReadFile(filepath.Join(fresh, "machine.json"))
	check(t, err)
	machine.Register(t.Context(), fresh, address, data, "a", "b")
	if after, err := os.ReadFile(filepath.Join(fresh, "machine.json")); err != nil || string(after) != string(before) {
		t.Errorf("the key changed between two tries: %v", err)
	}
	if _, err := machine.Load(fresh); err == nil {
		t.Error("a machine that was not admitted takes itself for registered")
	}
	if _, err := machine.Register(t.Context(), own, address, data, "a", "b"); err == nil || !strings.Contains(err.Error(), string(aMachine)) {
		t.Errorf("registered twice: got %v", err)
	}
}

// TestMeasureMachines measures what a machine's connection, which is TLS, takes of a gateway.
func TestMeasureMachines(t *testing.T) {
	measuring(t)
	t.Setenv("TMPDIR", "/dev/shm") // as /run is
	const n = 3000
	h := newHostOf(t, aMachine)
	address, certificate := h.machines()
	keys := make([]machine.Machine, n)
	for k := range keys {
		id := cloud.InstanceID(fmt.Sprintf("mi-%017x", k))
		m := machine.Machine{Instance: id, Gateway: address, Server: enrol.KeyOf(certificate)}
		key := registered(t, h.state, m)
		loaded, err := machine.Load(h.state)
		check(t, err)
		keys[k] = *loaded
		dir := h.root.Instance(id)
		check(t, os.MkdirAll(string(dir), 0o755))
		check(t, dir.MakeCommands(os.Getgid()))
		check(t, bundle.Write(dir.Path(bundle.NodeFile), bundle.Node{Instance: id, Key: key}, 0o644))
	}
	first, err := keys[0].Dialer().Dial(t.Context(), keys[0].URL()) // the first costs what all of them share
	check(t, err)
	first.Close()
	<-time.After(5 * time.Second)
	before := status(t, h.gateway.Process.Pid, "VmRSS:")
	conns := make([]*wire.Conn, n)
	c := &crowd{h: h, n: n}
	say(t, "machines connect ms", took(func() {
		c.each(func(k int) {
			conn, err := keys[k].Dialer().Dial(t.Context(), keys[k].URL())
			if err == nil {
				err = conn.Send(&wire.Hello{Version: wire.Version, Boot: "boot", Agent: "crowd", Level: wire.Level})
			}
			if err == nil {
				_, err = conn.Receive()
			}
			if err != nil {
				t.Error(err)
				return
			}
			conns[k] = conn
		})
	}))
	c.each(func(k int) { check(t, conns[k].Probe()) }) // as they do every 15 s
	<-time.After(15 * time.Second)                     // what is written after a connection is, and what is garbage is collected
	say(t, "machine of a gateway KB", (status(t, h.gateway.Process.Pid, "VmRSS:")-before)*1.024/n)
	for _, conn := range conns {
		if conn != nil {
			conn.Close()
		}
	}
}
