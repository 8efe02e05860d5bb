package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

const (
	red  = cloud.VPCID("vpc-0000000000000000a")
	blue = cloud.VPCID("vpc-0000000000000000b")
)

func instanceNumber(n int) cloud.InstanceID { return cloud.InstanceID(fmt.Sprintf("i-%017x", n)) }

func metadataOf(id cloud.InstanceID, vpc cloud.VPCID, addrs ...string) Metadata {
	m := Metadata{Instance: id, Interfaces: []MetadataInterface{{VPC: vpc}}}
	n := &m.Interfaces[0]
	for _, text := range addrs {
		if a := netip.MustParseAddr(text); a.Is4() {
			n.Addresses = append(n.Addresses, a)
		} else {
			n.IPv6 = append(n.IPv6, a)
		}
	}
	return m
}

func publish(t *testing.T, root Root, m Metadata) {
	t.Helper()
	if err := os.MkdirAll(string(root.Instance(m.Instance)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(root.Instance(m.Instance).Path("metadata.json"), m, 0o640); err != nil {
		t.Fatal(err)
	}
}

func wantOwner(t *testing.T, x *Index, vpc cloud.VPCID, addr string, want cloud.InstanceID) {
	t.Helper()
	got, err := x.Find(vpc, netip.MustParseAddr(addr))
	if want == "" {
		if !errors.Is(err, ErrNobody) {
			t.Fatalf("Find(%s, %s) = %q, %v; want nobody", vpc, addr, got.ID, err)
		}
		return
	}
	if err != nil || got.ID != want || got.Metadata.Instance != want {
		t.Fatalf("Find(%s, %s) = %q, %v; want %q", vpc, addr, got.ID, err, want)
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindFollowsFilesAtOnce(t *testing.T) {
	root := Root(filepath.Join(t.TempDir(), "run"))
	x := NewIndex(root)
	defer x.Close()
	a, b, c := instanceNumber(1), instanceNumber(2), instanceNumber(3)

	wantOwner(t, x, red, "10.0.0.5", "") // not even the run directory exists
	publish(t, root, metadataOf(a, red, "10.0.0.5", "10.0.0.6"))
	wantOwner(t, x, red, "10.0.0.5", a)
	wantOwner(t, x, red, "10.0.0.6", a)
	wantOwner(t, x, red, "::ffff:10.0.0.5", a)
	wantOwner(t, x, blue, "10.0.0.5", "")

	publish(t, root, metadataOf(b, blue, "10.0.0.5", "fd00::5")) // the same address in another VPC
	wantOwner(t, x, red, "10.0.0.5", a)
	wantOwner(t, x, blue, "10.0.0.5", b)
	wantOwner(t, x, blue, "fd00::5", b)
	wantOwner(t, x, red, "fd00::5", "")

	publish(t, root, metadataOf(a, red, "10.0.0.6")) // an address given back
	wantOwner(t, x, red, "10.0.0.5", "")
	wantOwner(t, x, red, "10.0.0.6", a)

	remove(t, root.Instance(a).Path("metadata.json"))
	wantOwner(t, x, red, "10.0.0.6", "")
	publish(t, root, metadataOf(c, red, "10.0.0.6")) // and used by its next owner
	wantOwner(t, x, red, "10.0.0.6", c)

	remove(t, string(root.Instance(c)))
	publish(t, root, metadataOf(c, red, "10.0.0.7")) // a directory that is made again
	wantOwner(t, x, red, "10.0.0.6", "")
	wantOwner(t, x, red, "10.0.0.7", c)

	remove(t, root.Instances())
	wantOwner(t, x, red, "10.0.0.7", "")
	publish(t, root, metadataOf(c, red, "10.0.0.8"))
	wantOwner(t, x, red, "10.0.0.8", c)

	away := filepath.Join(string(root), "away")
	if err := os.Rename(string(root.Instance(c)), away); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, x, red, "10.0.0.8", "")
	if err := os.Rename(away, string(root.Instance(c))); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, x, red, "10.0.0.8", c)
}

func TestTwoOwnersGetNothing(t *testing.T) {
	root := Root(t.TempDir())
	x := NewIndex(root)
	defer x.Close()
	publish(t, root, metadataOf(instanceNumber(1), red, "10.0.0.5"))
	wantOwner(t, x, red, "10.0.0.5", instanceNumber(1))
	publish(t, root, metadataOf(instanceNumber(2), red, "10.0.0.5"))
	if _, err := x.Find(red, netip.MustParseAddr("10.0.0.5")); !errors.Is(err, ErrTwoOwners) {
		t.Fatalf("Find = %v, want %v", err, ErrTwoOwners)
	}
	remove(t, root.Instance(instanceNumber(1)).Path("metadata.json"))
	wantOwner(t, x, red, "10.0.0.5", instanceNumber(2))
}

func TestBehindAnInstanceAreItsDelegatedPrefixes(t *testing.T) {
	root := Root(t.TempDir())
	x := NewIndex(root)
	defer x.Close()
	m := metadataOf(instanceNumber(1), red, "10.0.0.5", "2001:db8::5")
	m.Interfaces[0].Prefixes = []netip.Prefix{netip.MustParsePrefix("10.0.0.32/28"), netip.MustParsePrefix("2001:db8:0:0:7::/80")}
	publish(t, root, m)
	behind := func(vpc cloud.VPCID, addr string, want cloud.InstanceID, failure error) {
		t.Helper()
		if got, err := x.Behind(vpc, netip.MustParseAddr(addr)); got.ID != want || !errors.Is(err, failure) {
			t.Errorf("Behind(%s, %s) = %q, %v; want %q, %v", vpc, addr, got.ID, err, want, failure)
		}
		if got := x.Lately(vpc, netip.MustParseAddr(addr)); got != want {
			t.Errorf("and right after it, Lately = %q", got)
		}
	}
	for _, addr := range []string{"10.0.0.5", "::ffff:10.0.0.5", "2001:db8::5", "10.0.0.32", "::ffff:10.0.0.47", "2001:db8::7:0:0:0", "2001:db8::7:ffff:ffff:ffff"} {
		behind(red, addr, instanceNumber(1), nil)
		behind(blue, addr, "", ErrNobody)
	}
	for _, addr := range []string{"10.0.0.31", "10.0.0.48", "2001:db8::6:ffff:ffff:ffff", "2001:db8::8:0:0:0"} {
		behind(red, addr, "", ErrNobody)
	}
	wantOwner(t, x, red, "10.0.0.33", "") // the instance itself has no such address

	publish(t, root, metadataOf(instanceNumber(2), red, "10.0.0.33"))
	behind(red, "10.0.0.33", "", ErrTwoOwners)
	behind(red, "10.0.0.34", instanceNumber(1), nil)
	publish(t, root, metadataOf(instanceNumber(1), red, "10.0.0.5")) // the prefix is taken back
	behind(red, "10.0.0.33", instanceNumber(2), nil)
	behind(red, "10.0.0.34", "", ErrNobody)
}

func TestABrokenFileIsNobodysAndShows(t *testing.T) {
	root := Root(t.TempDir())
	x := NewIndex(root)
	defer x.Close()
	id := instanceNumber(1)
	publish(t, root, metadataOf(id, red, "10.0.0.5"))
	wantOwner(t, x, red, "10.0.0.5", id)
	if err := WriteBytes(root.Instance(id).Path("metadata.json"), []byte(`{"Instance`), 0o640); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, x, red, "10.0.0.5", "")
	if x.Health() == nil {
		t.Error("Health is nil with a file that nobody can read")
	}
	publish(t, root, metadataOf(id, red, "10.0.0.5"))
	wantOwner(t, x, red, "10.0.0.5", id)
	if err := x.Health(); err != nil {
		t.Errorf("Health = %v after the file was mended", err)
	}
	stray := metadataOf(instanceNumber(2), red, "10.0.0.9")
	if err := Write(root.Instance(id).Path("metadata.json"), stray, 0o640); err != nil {
		t.Fatal(err)
	}
	wantOwner(t, x, red, "10.0.0.9", "") // a file in another instance's directory
}

func TestCredentialsFollowTheirFile(t *testing.T) {
	root := Root(t.TempDir())
	x := NewIndex(root)
	defer x.Close()
	id := instanceNumber(1)
	if _, err := x.Credentials(id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Credentials of nobody: %v", err)
	}
	publish(t, root, metadataOf(id, red, "10.0.0.5"))
	if _, err := x.Credentials(id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Credentials without a file: %v", err)
	}
	for _, key := range []string{"ASIA1", "ASIA2"} {
		if err := Write(root.Instance(id).Path("credentials.json"), Credentials{AccessKeyID: key}, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := x.Credentials(id)
		if err != nil || got.AccessKeyID != key {
			t.Fatalf("Credentials = %+v, %v; want key %s", got, err, key)
		}
	}
	remove(t, root.Instance(id).Path("credentials.json"))
	if _, err := x.Credentials(id); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Credentials of a role taken away: %v", err)
	}
}

// A thousand random steps against the plain truth: the files, read one by one.
func TestFindAgreesWithTheFiles(t *testing.T) {
	root := Root(t.TempDir())
	agree(t, root, NewIndex(root))
}

func TestFindAgreesWithTheFilesWithoutInotify(t *testing.T) {
	root := Root(t.TempDir())
	x := NewIndex(root)
	x.inotify = func(int) (int, error) { return -1, syscall.EMFILE }
	if x.Health() == nil {
		t.Error("Health is nil although every question reads all files")
	}
	agree(t, root, x)
}

func agree(t *testing.T, root Root, x *Index) {
	t.Helper()
	defer x.Close()
	r := rand.New(rand.NewPCG(1, 2))
	addresses := []string{"10.0.0.0", "10.0.0.1", "10.0.0.2", "fd00::", "fd00::1", "2001:db8::2"}
	truth := map[cloud.InstanceID]string{}
	for step := range 1000 {
		id := instanceNumber(r.IntN(8))
		addr := addresses[r.IntN(6)]
		switch r.IntN(4) {
		case 0, 1:
			publish(t, root, metadataOf(id, red, addr))
			truth[id] = addr
		case 2:
			remove(t, root.Instance(id).Path("metadata.json"))
			delete(truth, id)
		case 3:
			remove(t, string(root.Instance(id)))
			delete(truth, id)
		}
		if r.IntN(3) == 0 {
			continue // several changes between two questions
		}
		for _, addr := range addresses {
			var owners []cloud.InstanceID
			for id, a := range truth {
				if a == addr {
					owners = append(owners, id)
				}
			}
			got, err := x.Find(red, netip.MustParseAddr(addr))
			switch {
			case len(owners) == 0 && errors.Is(err, ErrNobody):
			case len(owners) == 1 && err == nil && got.ID == owners[0]:
			case len(owners) > 1 && errors.Is(err, ErrTwoOwners):
			default:
				t.Fatalf("step %d: Find(%s) = %q, %v; the files say %v", step, addr, got.ID, err, owners)
			}
		}
	}
}

func BenchmarkFind(b *testing.B) {
	root := Root(b.TempDir())
	for n := range 1000 {
		m := metadataOf(instanceNumber(n), red, fmt.Sprintf("10.0.%d.%d", n/250, n%250+1))
		if err := os.MkdirAll(string(root.Instance(m.Instance)), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := Write(root.Instance(m.Instance).Path("metadata.json"), m, 0o640); err != nil {
			b.Fatal(err)
		}
	}
	x := NewIndex(root)
	defer x.Close()
	addr := netip.MustParseAddr("10.0.2.7")
	for b.Loop() {
		if _, err := x.Find(red, addr); err != nil {
			b.Fatal(err)
		}
	}
}
