package cloud_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

var (
	micro   = cloud.InstanceType{Name: "t2.micro", Interfaces: 2, Addresses: 2}
	running = cloud.Instance{ID: "i-1", Zone: "z", Host: "h-1", Power: cloud.PowerRunning, Boot: 1, Generation: 7, Interfaces: []cloud.InterfaceID{"eni-0"}}
	spare   = cloud.NetworkInterface{ID: "eni-1", Zone: "z", Generation: 3, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}}
)

func seen(s cloud.State, attached ...cloud.AttachmentID) *cloud.InstanceStatus {
	return &cloud.InstanceStatus{Boot: 1, Generation: 7, State: s, Attached: attached}
}

func TestAttach(t *testing.T) {
	at := cloud.Attachment{ID: "eni-attach-1", DeviceIndex: 1, Time: time.Unix(1, 0)}
	primary := []cloud.NetworkInterface{{ID: "eni-0", Instance: "i-1"}}
	for _, c := range []struct {
		name string
		code string
		edit func(n *cloud.NetworkInterface, i *cloud.Instance, st *cloud.InstanceStatus, others *[]cloud.NetworkInterface)
	}{
		{"to a running instance", "", func(*cloud.NetworkInterface, *cloud.Instance, *cloud.InstanceStatus, *[]cloud.NetworkInterface) {}},
		{"to a stopped instance", "", func(_ *cloud.NetworkInterface, i *cloud.Instance, st *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			i.Power, st.State = cloud.PowerStopped, cloud.StateStopped
		}},
		{"to one that is still stopping", "IncorrectState", func(_ *cloud.NetworkInterface, i *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			i.Power = cloud.PowerStopped
		}},
		{"to a terminated one", "IncorrectState", func(_ *cloud.NetworkInterface, i *cloud.Instance, st *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			i.Power, st.State = cloud.PowerTerminated, cloud.StateTerminated
		}},
		{"that is attached already", "InvalidNetworkInterface.InUse", func(n *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			n.Instance = "i-2"
		}},
		{"in another zone", "InvalidParameterCombination", func(n *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			n.Zone = "y"
		}},
		{"at an index that is taken", "InvalidParameterValue", func(_ *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, o *[]cloud.NetworkInterface) {
			*o = []cloud.NetworkInterface{{DeviceIndex: 1}}
		}},
		{"beyond the type's limit", "AttachmentLimitExceeded", func(_ *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, o *[]cloud.NetworkInterface) {
			*o = []cloud.NetworkInterface{{DeviceIndex: 0}, {DeviceIndex: 2}}
		}},
		{"with more addresses than the type's", "PrivateIpAddressLimitExceeded", func(n *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			n.Addresses = make([]netip.Addr, 3)
		}},
		{"with a prefix beside two addresses", "PrivateIpAddressLimitExceeded", func(n *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			n.Addresses, n.Prefixes = make([]netip.Addr, 2), []netip.Prefix{netip.MustParsePrefix("10.0.0.16/28")}
		}},
		{"of a NAT gateway", "OperationNotPermitted", func(n *cloud.NetworkInterface, _ *cloud.Instance, _ *cloud.InstanceStatus, _ *[]cloud.NetworkInterface) {
			n.Kind = cloud.KindNATGateway
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, i, st, others := spare, running, seen(cloud.StateRunning), primary
			c.edit(&n, &i, st, &others)
			gotN, gotI, err := n.Attach(i, st, micro, others, at)
			if cloud.Code(err) != c.code {
				t.Fatalf("got %v, want code %q", err, c.code)
			}
			if err != nil {
				return
			}
			if gotN.Instance != "i-1" || gotN.DeviceIndex != 1 || gotN.Generation != 4 || gotN.DeleteOnTermination || gotI.Generation != 8 || len(gotI.Interfaces) != 2 {
				t.Errorf("got %+v and %+v", gotN, gotI)
			}
			if len(running.Interfaces) != 1 {
				t.Error("the instance that was given has changed")
			}
		})
	}
}

func TestAttachmentLife(t *testing.T) {
	n, i, err := spare.Attach(running, seen(cloud.StateRunning), micro, nil, cloud.Attachment{ID: "eni-attach-1", DeviceIndex: 1})
	if err != nil {
		t.Fatal(err)
	}
	show := func(what string, n cloud.NetworkInterface, i cloud.Instance, st *cloud.InstanceStatus, state string, leaves bool) {
		t.Helper()
		if got := n.AttachmentState(i, st); got != state {
			t.Errorf("%s: got %s, want %s", what, got, state)
		}
		if got := n.Leaves(i, st); got != leaves {
			t.Errorf("%s: leaves: got %t, want %t", what, got, leaves)
		}
	}
	show("before the host has it", n, i, seen(cloud.StateRunning), "attaching", false)
	show("the host has it", n, i, seen(cloud.StateRunning, "eni-attach-1"), "attached", false)
	stopped := i
	stopped.Power = cloud.PowerStopped
	show("stopped", n, stopped, seen(cloud.StateStopped), "attached", false)
	primary := n
	primary.DeviceIndex = 0
	show("the primary one of a pending instance", primary, i, nil, "attaching", false)
	show("the primary one", primary, i, seen(cloud.StateRunning), "attached", false)
	if _, _, err := primary.AskDetach(i, cloud.DetachForce); cloud.Code(err) != "OperationNotPermitted" {
		t.Errorf("the primary one: got %v", err)
	}

	n, i, err = n.AskDetach(i, cloud.DetachAsked)
	if err != nil || i.Generation != 9 {
		t.Fatalf("got generation %d, %v", i.Generation, err)
	}
	if again, _, err := n.AskDetach(i, cloud.DetachAsked); err != nil || again.Generation != n.Generation {
		t.Errorf("again: got %+v, %v", again, err)
	}
	if forced, _, err := n.AskDetach(i, cloud.DetachForce); err != nil || forced.Detach != cloud.DetachForce {
		t.Errorf("by force: got %+v, %v", forced, err)
	}
	old := seen(cloud.StateRunning)
	show("a status from before the wish", n, i, old, "detaching", false)
	now := seen(cloud.StateRunning, "eni-attach-1")
	now.Generation = i.Generation
	show("the guest has not let go", n, i, now, "detaching", false)
	now.Attached = nil
	show("the host has it no more", n, i, now, "detaching", true)
	off := i
	off.Power = cloud.PowerStopped
	show("there is no machine", n, off, seen(cloud.StateStopped), "detaching", true)
	if free := n.Free(time.Unix(9, 0)); free.Left == nil || free.Left.Attachment != n.Attachment || free.Left.Instance != n.Instance || free.Instance != "" || free.Attachment != "" || free.Detach != "" || free.DeviceIndex != 0 || free.AttachmentState(i, now) != "detached" {
		t.Errorf("free: got %+v", free)
	}
}

func TestTrackingTimeouts(t *testing.T) {
	for _, c := range []struct {
		name string
		t    cloud.Tracking
		code string
	}{
		{"the defaults", cloud.Tracking{}, ""},
		{"the longest", cloud.Tracking{TCPEstablished: 432000, UDPStream: 180, UDP: 60}, ""},
		{"TCP for a minute", cloud.Tracking{TCPEstablished: 60}, ""},
		{"TCP for less", cloud.Tracking{TCPEstablished: 59}, "InvalidParameterValue"},
		{"a stream for more than three minutes", cloud.Tracking{UDPStream: 181}, "InvalidParameterValue"},
		{"UDP for more than one", cloud.Tracking{UDP: 61}, "InvalidParameterValue"},
	} {
		if err := c.t.Validate(); cloud.Code(err) != c.code {
			t.Errorf("%s: got %v, want %q", c.name, err, c.code)
		}
	}
}

func TestAssociate(t *testing.T) {
	second := netip.MustParseAddr("10.0.0.6")
	n := spare
	n.Addresses = append(n.Addresses[:1:1], second)
	a := cloud.Address{ID: "eipalloc-1"}
	first, err := a.Associate(n, netip.Addr{}, "eipassoc-1", false)
	if err != nil || first.Private != n.Primary() || first.Interface != n.ID || first.Association != "eipassoc-1" {
		t.Fatalf("got %+v, %v, want it to stand for the primary address", first, err)
	}
	if same, err := first.Associate(n, n.Primary(), "eipassoc-2", false); err != nil || same.Association != first.Association {
		t.Errorf("again: got %+v, %v", same, err)
	}
	if _, err := first.Associate(n, second, "eipassoc-2", false); cloud.Code(err) != "Resource.AlreadyAssociated" {
		t.Errorf("another private one: got %v", err)
	}
	if moved, err := first.Associate(n, second, "eipassoc-2", true); err != nil || moved.Private != second || moved.Association != "eipassoc-2" {
		t.Errorf("moved: got %+v, %v", moved, err)
	}
	if _, err := a.Associate(n, netip.MustParseAddr("10.0.0.7"), "eipassoc-1", true); cloud.Code(err) != "InvalidParameterValue" {
		t.Errorf("a foreign one: got %v", err)
	}
	if free := first.Disassociate(); free.Association != "" || free.Interface != "" || free.Private.IsValid() {
		t.Errorf("disassociated: got %+v", free)
	}
}

func TestParsePool(t *testing.T) {
	for text, want := range map[string]int{"": 0, "198.51.100.0/28": 1, "198.51.100.0/28, 203.0.113.7/32": 2, "198.51.100.1/28": -1, "198.51.100.0": -1, "2001:db8::/64": -1, "198.51.100.0/28,198.51.100.8/29": -1} {
		got, err := cloud.ParsePool(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || len(got) != want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestPublicDNSName(t *testing.T) {
	a := netip.MustParseAddr("198.51.100.7")
	for region, want := range map[string]string{"ichiro-1": "ec2-198-51-100-7.ichiro-1.compute.amazonaws.com", "us-east-1": "ec2-198-51-100-7.compute-1.amazonaws.com"} {
		if got := cloud.PublicDNSName(a, region); got != want {
			t.Errorf("%s: got %s, want %s", region, got, want)
		}
	}
}

func TestParseResolvers(t *testing.T) {
	got, err := cloud.ParseResolvers("192.0.2.53, 192.0.2.54:5353,[2001:db8::1]:53,2001:db8::2")
	if err != nil || fmt.Sprint(got) != "[192.0.2.53:53 192.0.2.54:5353 [2001:db8::1]:53 [2001:db8::2]:53]" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "ns.example.com", "192.0.2.53,", "192.0.2.53:x"} {
		if got, err := cloud.ParseResolvers(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}
