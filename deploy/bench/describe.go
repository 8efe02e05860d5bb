package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

const (
	many      = 1000 // instances
	elsewhere = cloud.HostID("h-0000beef")
	asked     = 25 // how often DescribeInstances is asked
	ups       = 5  // how often a host is brought up
)

// upEmpty measures `ichiro up` on empty directories. The last of the hosts stays up.
func (b *bench) upEmpty(ctx context.Context) error {
	f := figure{Name: "ichiro up to ready, empty state", Unit: "s", Target: 3}
	for i := range ups {
		if err := b.stop(ctx); err != nil {
			return err
		}
		h, err := b.up(ctx, fmt.Sprintf("s%d", i))
		if err != nil {
			return err
		}
		f.OursRaw = append(f.OursRaw, h.took.Seconds())
		if _, err := h.image(ctx); err != nil { // a host that is taken down while it builds is another case
			return err
		}
	}
	b.bound(f)
	return nil
}

// idle measures the memory of all daemons when nothing runs: what is resident, though pages that they
// share are then counted more than once.
func (b *bench) idle(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	if _, err := h.image(ctx); err != nil {
		return err
	}
	if err := h.settle(ctx); err != nil {
		return err
	}
	pids, err := h.daemons()
	if err != nil {
		return err
	}
	f := figure{Name: "idle memory of all daemons, resident", Unit: "MB", Target: 150}
	var shared float64
	for _, name := range []string{"control", "agent", "imds", "gateway", "s3", "ichiro"} {
		rss, pss, err := memory(pids[name])
		if err != nil {
			return err
		}
		f.Ours += rss / 1e6
		shared += pss / 1e6
		f.Note += fmt.Sprintf("%s %s, ", name, number(rss/1e6))
	}
	f.Note += fmt.Sprintf("together %s MB when shared pages are counted once", number(shared))
	b.bound(f)
	return nil
}

// settle waits until the daemons have used next to no processor time for three seconds.
func (h *host) settle(ctx context.Context) error {
	pids, err := h.daemons()
	if err != nil {
		return err
	}
	quiet, last := 0, time.Duration(0)
	return until(ctx, h, time.Second, func() (bool, error) {
		var used time.Duration
		for _, pid := range pids {
			t, err := cpu(pid)
			if err != nil {
				return false, err
			}
			used += t
		}
		if quiet++; used-last > 50*time.Millisecond {
			quiet = 0
		}
		last = used
		return quiet >= 3, nil
	})
}

// describe fills the store with instances, stopped on a host that does not exist, and measures how long
// DescribeInstances and the start of a host then take.
func (b *bench) describe(ctx context.Context) error {
	h, err := b.running(ctx)
	if err != nil {
		return err
	}
	if _, err := h.image(ctx); err != nil {
		return err
	}
	ids, err := h.fill(ctx)
	if err != nil {
		return err
	}
	err = until(ctx, h, 100*time.Millisecond, func() (bool, error) {
		n, err := h.stopped(ctx)
		return n == many, err
	})
	if err != nil {
		return err
	}
	if err := h.settle(ctx); err != nil { // the planner writes what that host would have to know
		return err
	}
	if err := b.ask(ctx, h, ids); err != nil {
		return err
	}
	f := figure{Name: "ichiro up to ready, state of 1,000 instances", Unit: "s", Target: 5}
	name := filepath.Base(h.state)
	for range ups {
		if err := b.stop(ctx); err != nil {
			return err
		}
		if h, err = b.up(ctx, name); err != nil {
			return err
		}
		f.OursRaw = append(f.OursRaw, h.took.Seconds())
		if n, err := h.stopped(ctx); err != nil || n != many { // ready means that it can answer
			return fmt.Errorf("a host that is ready shows %d of %d instances: %v", n, many, err)
		}
	}
	b.bound(f)
	return nil
}

// ask measures DescribeInstances as a client sees it, over one connection, reading all of the answer.
func (b *bench) ask(ctx context.Context, h *host, ids []string) error {
	pids, err := h.daemons()
	if err != nil {
		return err
	}
	for _, q := range []struct {
		name string
		ids  []string
		want int
	}{
		{"DescribeInstances of 1,000 instances", nil, many},
		{"DescribeInstances of one among 1,000 by its ID", ids[:1], 1},
	} {
		f := figure{Name: q.name, Unit: "ms", Target: 150}
		var decoded []float64
		before, err := cpu(pids["control"])
		if err != nil {
			return err
		}
		for range asked {
			clock := &stopwatch{under: http.DefaultTransport}
			client := ec2.NewFromConfig(h.config, func(o *ec2.Options) { o.HTTPClient = &http.Client{Transport: clock} })
			began := time.Now()
			out, err := client.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: q.ids})
			decoded = append(decoded, time.Since(began).Seconds()*1e3)
			if err != nil {
				return err
			}
			n := 0
			for _, r := range out.Reservations {
				n += len(r.Instances)
			}
			if n < q.want { // terminated ones of other measurements are still shown
				return fmt.Errorf("DescribeInstances answers %d instances, want %d", n, q.want)
			}
			f.OursRaw = append(f.OursRaw, clock.took.Seconds()*1e3)
		}
		after, err := cpu(pids["control"])
		if err != nil {
			return err
		}
		f.Note = fmt.Sprintf("until all of the answer is read; the server used %s ms of processor time each; with the stock client's own decoding %s ms",
			number((after-before).Seconds()*1e3/asked), number(median(decoded)))
		b.bound(f)
	}
	return nil
}

// stopwatch takes the time from sending a request to having read all of its answer, which it then hands to
// the client: what follows is the client's own work.
type stopwatch struct {
	under http.RoundTripper
	took  time.Duration
}

func (s *stopwatch) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := s.under.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	s.took = time.Since(began)
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, err
}

// stopped counts the instances that the API shows as stopped.
func (h *host) stopped(ctx context.Context) (n int, err error) {
	out, err := h.ec2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
	if err != nil {
		return 0, err
	}
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			if i.State != nil && i.State.Name == "stopped" {
				n++
			}
		}
	}
	return n, nil
}

// fill writes instances with their interfaces straight into the store, and the statuses that their host
// would have written.
func (h *host) fill(ctx context.Context) ([]string, error) {
	c, err := h.store(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	w, err := look(ctx, c)
	if err != nil {
		return nil, err
	}
	const batch = 40 // three keys each; etcd takes 128 operations in a transaction
	var ids []string
	addr := w.subnet.CIDR.Addr()
	for range 256 {
		addr = addr.Next()
	}
	for n := 0; n < many; {
		t := store.NewTxn()
		for ; t.Len() < 3*batch && n < many; n++ {
			addr = addr.Next()
			i, nic := w.instance(n, addr)
			store.Create(t, store.Instances, i.ID, i)
			store.Create(t, store.Interfaces, nic.ID, nic)
			store.Create(t, store.InstanceStatuses(elsewhere), i.ID, cloud.InstanceStatus{
				ID: i.ID, Host: elsewhere, Generation: i.Generation, Boot: i.Boot, State: cloud.StateStopped, Since: i.Launched,
			})
			ids = append(ids, string(i.ID))
		}
		if _, err := c.Commit(ctx, t); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// world is what the instances refer to: the defaults of the account and the small image.
type world struct {
	subnet cloud.Subnet
	group  cloud.SecurityGroup
	image  cloud.Image
	now    time.Time
}

func look(ctx context.Context, c *store.Client) (w world, err error) {
	subnets, err := store.List(ctx, c, store.Subnets, store.Range{})
	if err != nil {
		return w, err
	}
	groups, err := store.List(ctx, c, store.Groups, store.Range{})
	if err != nil {
		return w, err
	}
	images, err := store.List(ctx, c, store.Images, store.Range{})
	if err != nil {
		return w, err
	}
	m := slices.IndexFunc(images.Objects, func(o store.Object[cloud.Image]) bool { return o.Value.Kind == cloud.ImageMachine })
	if len(subnets.Objects) == 0 || len(groups.Objects) == 0 || m < 0 {
		return w, fmt.Errorf("the store has %d subnets, %d groups and image %d: want one of each", len(subnets.Objects), len(groups.Objects), m)
	}
	return world{subnets.Objects[0].Value, groups.Objects[0].Value, images.Objects[m].Value, time.Now().UTC().Truncate(time.Second)}, nil
}

// instance returns an instance as RunInstances writes one, stopped.
func (w world) instance(n int, addr netip.Addr) (cloud.Instance, cloud.NetworkInterface) {
	nic := cloud.NetworkInterface{
		ID: cloud.InterfaceID(id("eni")), Generation: 1, Account: w.subnet.Account, VPC: w.subnet.VPC, Subnet: w.subnet.ID, Zone: w.subnet.Zone,
		MAC: fmt.Sprintf("02:be:ef:00:%02x:%02x", n>>8, n&255), Addresses: []netip.Addr{addr}, Groups: []cloud.GroupID{w.group.ID},
		SourceDestCheck: true, Attachment: cloud.AttachmentID(id("eni-attach")), DeleteOnTermination: true, AttachTime: w.now,
	}
	i := cloud.Instance{
		ID: cloud.InstanceID(id("i")), Generation: 3, Account: w.subnet.Account, Reservation: cloud.ReservationID(id("r")),
		Image: w.image.ID, Kernel: w.image.Kernel, Ramdisk: w.image.Ramdisk, Architecture: "x86_64", Virtualization: "paravirtual",
		RootDeviceType: "ebs", Type: "t2.nano", Interfaces: []cloud.InterfaceID{nic.ID}, Zone: w.subnet.Zone, Host: elsewhere,
		Power: cloud.PowerStopped, Boot: 1, Launched: w.now, Transition: "User initiated", ShutdownBehavior: "stop",
		Reason:   cloud.Reason{Code: "Client.UserInitiatedShutdown", Message: "Client.UserInitiatedShutdown: User initiated shutdown"},
		Metadata: cloud.DefaultMetadataOptions(), Tags: cloud.Tags{"Name": fmt.Sprintf("machine %d", n), "group": "bench"},
	}
	nic.Instance = i.ID
	return i, nic
}

// id returns a new identifier with EC2's 17 hexadecimal digits.
func id(prefix string) string {
	var b [9]byte
	rand.Read(b[:])
	return prefix + "-" + hex.EncodeToString(b[:])[:17]
}
