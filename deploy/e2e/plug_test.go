//go:build vm

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// plugs changes the interfaces of one instance by what the API writes, and follows what its host says.
type plugs struct {
	*host
	t  *testing.T
	c  *store.Client
	id cloud.InstanceID
}

func (h *host) plugs(t *testing.T, id string) plugs {
	t.Helper()
	c, err := store.Open(t.Context(), store.Config{Endpoints: []string{"unix://" + bundle.Root(h.run()).Etcd()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return plugs{h, t, c, cloud.InstanceID(id)}
}

// change changes the instance and one interface in one transaction, as often as others come between.
func (p plugs) change(eni cloud.InterfaceID, f func(i *cloud.Instance, n *cloud.NetworkInterface, t *store.Txn)) {
	p.t.Helper()
	await(p.t, "a change of "+string(eni), func() error {
		i, err := store.Get(p.t.Context(), p.c, store.Instances, p.id)
		if err != nil {
			return err
		}
		n, err := store.Get(p.t.Context(), p.c, store.Interfaces, eni)
		fresh := errors.Is(err, store.ErrNotFound)
		if err != nil && !fresh {
			return err
		}
		t := store.NewTxn()
		wish, card := i.Value, n.Value
		wish.Interfaces = slices.Clone(wish.Interfaces)
		f(&wish, &card, t)
		wish.Generation++
		card.Generation++
		store.Update(t, store.Instances, i, wish)
		if fresh {
			store.Create(t, store.Interfaces, eni, card)
		} else {
			store.Update(t, store.Interfaces, n, card)
		}
		_, err = p.c.Commit(p.t.Context(), t)
		return err
	})
}

// attach wishes for an interface with an address that nobody has, beside the instance's first one.
func (p plugs) attach(eni cloud.InterfaceID, index int, addr string) {
	p.t.Helper()
	i, err := store.Get(p.t.Context(), p.c, store.Instances, p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	first, err := store.Get(p.t.Context(), p.c, store.Interfaces, i.Value.Interfaces[0])
	if err != nil {
		p.t.Fatal(err)
	}
	p.change(eni, func(i *cloud.Instance, n *cloud.NetworkInterface, t *store.Txn) {
		if n.ID == "" {
			*n = first.Value
			n.ID, n.MAC = eni, fmt.Sprintf("02:77:77:77:00:%02x", eni[len(eni)-1])
			n.Addresses = []netip.Addr{netip.MustParseAddr(addr)}
			store.Create(t, store.NewKind[cloud.InterfaceID](store.IPAMPrefix(n.Subnet)), addr, eni)
		}
		n.Instance, n.DeviceIndex, n.AttachTime, n.Detach = p.id, index, time.Now().UTC(), cloud.DetachNot
		n.Attachment = cloud.AttachmentID(fmt.Sprintf("eni-attach-%017x", time.Now().UnixNano()))
		i.Interfaces = append(i.Interfaces, eni)
	})
}

// assign gives an interface addresses, or takes them away.
func (p plugs) assign(eni cloud.InterfaceID, addrs ...string) {
	p.t.Helper()
	p.change(eni, func(_ *cloud.Instance, n *cloud.NetworkInterface, _ *store.Txn) {
		n.Addresses = slices.Clone(n.Addresses[:1])
		for _, a := range addrs {
			n.Addresses = append(n.Addresses, netip.MustParseAddr(a))
		}
	})
}

// status returns what the host says of the wish as it is now.
func (p plugs) status() (cloud.InstanceStatus, error) {
	i, err := store.Get(p.t.Context(), p.c, store.Instances, p.id)
	if err != nil {
		return cloud.InstanceStatus{}, err
	}
	o, err := store.Get(p.t.Context(), p.c, store.InstanceStatuses(i.Value.Host), p.id)
	if err == nil && o.Value.Generation < i.Value.Generation {
		err = errors.New("the host has not seen the wish yet")
	}
	return o.Value, err
}

// attached waits until the host says that the machine has an interface, or has it no more.
func (p plugs) attached(eni cloud.InterfaceID, want bool) time.Duration {
	p.t.Helper()
	return await(p.t, fmt.Sprint(eni, " attached: ", want), func() error {
		n, err := store.Get(p.t.Context(), p.c, store.Interfaces, eni)
		if err != nil {
			return err
		}
		st, err := p.status()
		if err == nil && slices.Contains(st.Attached, n.Value.Attachment) != want {
			err = fmt.Errorf("attached are %v, trouble %q", st.Attached, st.Trouble)
		}
		return err
	})
}

// detach wishes for an interface to go, waits until it has, and frees it, which is the planner's part.
func (p plugs) detach(eni cloud.InterfaceID, how cloud.Detach) time.Duration {
	p.t.Helper()
	p.change(eni, func(_ *cloud.Instance, n *cloud.NetworkInterface, _ *store.Txn) { n.Detach = how })
	took := p.attached(eni, false)
	p.change(eni, func(i *cloud.Instance, n *cloud.NetworkInterface, _ *store.Txn) {
		n.Instance, n.Attachment, n.AttachTime, n.Detach = "", "", time.Time{}, cloud.DetachNot
		i.Interfaces = slices.DeleteFunc(i.Interfaces, func(x cloud.InterfaceID) bool { return x == eni })
	})
	return took
}

// asking has a guest ask an address for echoes from now on; wait returns how long after the start the first one came.
func (h *host) asking(t *testing.T, from, addr string) (wait func(start time.Time) time.Duration) {
	t.Helper()
	command := h.send(t, from, "n=0; while test $n -lt 300; do n=$((n+1)); if ping -q -c 1 -W 0.1 "+addr+" >/dev/null 2>&1; then exit 0; fi; done; exit 1")
	return func(start time.Time) time.Duration {
		t.Helper()
		if out := h.result(t, from, command); out.Status != "Success" {
			t.Fatalf("%s does not answer", addr)
		}
		return time.Since(start).Round(10 * time.Millisecond)
	}
}

// answers waits until an address answers a guest.
func (h *host) answers(t *testing.T, from, addr string) time.Duration {
	t.Helper()
	return h.asking(t, from, addr)(time.Now())
}

// silent checks that an address does not answer a guest.
func (h *host) silent(t *testing.T, from, addr string) {
	t.Helper()
	h.sh(t, from, "! ping -q -c 1 -W 0.5 "+addr+" >/dev/null 2>&1")
}

// network is all that a guest's kernel has been told of its network.
func (h *host) network(t *testing.T, id string) string {
	t.Helper()
	return h.sh(t, id, "ip addr; ip rule; ip route show table all")
}

// Interfaces come and go while the guest runs, whoever is killed meanwhile, and nobody types anything in the guest.
func TestInterfacesComeAndGo(t *testing.T) {
	h := the(t)
	h.image(t)
	a := h.guest(t, func(in *ec2.RunInstancesInput) { in.InstanceType = types.InstanceTypeT2Small })
	peer := *h.guest(t, nil).InstanceId
	id := *a.InstanceId
	p := h.plugs(t, id)
	kernel := func(t *testing.T) []string { // of the host
		return slices.DeleteFunc(traces(t, h), func(s string) bool { return strings.HasPrefix(s, "process ") })
	}
	before, links := h.network(t, id), kernel(t)
	same := func(t *testing.T) {
		t.Helper()
		await(t, "the guest's network as before", func() error {
			if now := h.network(t, id); now != before {
				return fmt.Errorf("before\n%s\nnow\n%s", before, now)
			}
			return nil
		})
		await(t, "nothing left on the host", func() error {
			if d := differ(links, kernel(t)); d != "" {
				return errors.New(d)
			}
			return nil
		})
	}
	const one, two, three = cloud.InterfaceID("eni-0aaaaaaaaaaaaaaa1"), cloud.InterfaceID("eni-0aaaaaaaaaaaaaaa2"), cloud.InterfaceID("eni-0aaaaaaaaaaaaaaa3")

	t.Run("an interface is attached and answers", func(t *testing.T) {
		p.t = t
		answered, began := h.asking(t, peer, "172.31.9.1"), time.Now()
		p.attach(one, 1, "172.31.9.1")
		t.Logf("it answered %v after the wish", answered(began))
		t.Logf("and was reported after another %v", p.attached(one, true))
		if got := h.network(t, id); !strings.Contains(got, "from 172.31.9.1 lookup 10001") {
			t.Errorf("the guest has no rule for it:\n%s", got)
		}
	})
	t.Run("secondary addresses answer as soon as they are assigned", func(t *testing.T) {
		p.t = t
		answered, began := h.asking(t, peer, "172.31.9.11"), time.Now()
		p.assign(one, "172.31.9.11", "172.31.9.12")
		t.Logf("on the further interface %v after the wish", answered(began))
		h.answers(t, peer, "172.31.9.12")
		answered, began = h.asking(t, peer, "172.31.9.20"), time.Now()
		p.assign(cloud.InterfaceID(*a.NetworkInterfaces[0].NetworkInterfaceId), "172.31.9.20")
		t.Logf("on the first interface %v after the wish", answered(began))
		p.assign(one)
		p.assign(cloud.InterfaceID(*a.NetworkInterfaces[0].NetworkInterfaceId))
		await(t, "the addresses gone from the guest", func() error {
			if got := h.network(t, id); strings.Contains(got, "172.31.9.11") || strings.Contains(got, "172.31.9.20") {
				return errors.New(got)
			}
			return nil
		})
		h.silent(t, peer, "172.31.9.11")
		h.answers(t, peer, "172.31.9.1")
	})
	t.Run("a detached one leaves nothing", func(t *testing.T) {
		p.t = t
		t.Logf("gone after %v", p.detach(one, cloud.DetachAsked))
		same(t)
		h.silent(t, peer, "172.31.9.1")
	})
	t.Run("agent and shim are killed in the middle of it", func(t *testing.T) {
		p.t = t
		dir := h.run("instances", id)
		for n, kill := range []func(){
			func() { h.kill(t, "agent") },
			func() { killShim(t, dir) },
			func() { killShim(t, dir); h.kill(t, "agent") },
		} {
			p.attach(one, 1, "172.31.9.1")
			kill()
			p.attached(one, true)
			h.answers(t, peer, "172.31.9.1")
			p.change(one, func(_ *cloud.Instance, n *cloud.NetworkInterface, _ *store.Txn) { n.Detach = cloud.DetachAsked })
			kill()
			p.detach(one, cloud.DetachAsked)
			t.Logf("round %d is over", n)
		}
		same(t)
	})
	t.Run("by force it goes at once", func(t *testing.T) {
		p.t = t
		p.attach(one, 1, "172.31.9.1")
		p.attach(two, 2, "172.31.9.2")
		h.answers(t, peer, "172.31.9.1")
		h.answers(t, peer, "172.31.9.2")
		p.attach(three, 3, "172.31.9.3") // one more than the type has
		await(t, "a word about it", func() error {
			if st, err := p.status(); err != nil || !strings.Contains(st.Trouble, "ports") {
				return fmt.Errorf("trouble %q, %v", st.Trouble, err)
			}
			return nil
		})
		p.detach(three, cloud.DetachAsked)
		t.Logf("gone after %v", p.detach(one, cloud.DetachForce))
		h.answers(t, peer, "172.31.9.2")
		p.detach(two, cloud.DetachForce)
		same(t)
	})
	t.Run("a stopped one takes part in the next boot, in the order of the devices", func(t *testing.T) {
		p.t = t
		ids := []string{id}
		if _, err := h.ec2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: ids}); err != nil {
			t.Fatal(err)
		}
		h.becomes(t, id, types.InstanceStateNameStopped)
		p.attach(two, 2, "172.31.9.2")
		p.attach(one, 1, "172.31.9.1")
		p.attached(one, true)
		if _, err := h.ec2.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: ids}); err != nil {
			t.Fatal(err)
		}
		h.becomes(t, id, types.InstanceStateNameRunning)
		for _, addr := range []string{*a.PrivateIpAddress, "172.31.9.1", "172.31.9.2"} {
			t.Logf("%s answers after %v", addr, h.answers(t, peer, addr))
		}
		if got := strings.Fields(h.sh(t, id, "cat /sys/class/net/eth1/address /sys/class/net/eth2/address")); !slices.Equal(got, []string{"02:77:77:77:00:31", "02:77:77:77:00:32"}) {
			t.Errorf("eth1 and eth2 are %v", got)
		}
		p.detach(one, cloud.DetachAsked)
		h.answers(t, peer, "172.31.9.2")
		h.silent(t, peer, "172.31.9.1")
		p.detach(two, cloud.DetachAsked)
		same(t)
	})
}

// killShim ends the keeper of a machine without warning.
func killShim(t *testing.T, dir string) {
	t.Helper()
	p, err := shim.Keeper(t.Context(), dir)
	if err == nil {
		err = syscall.Kill(p.PID, syscall.SIGKILL)
	}
	if err != nil {
		t.Error(err)
	}
}
