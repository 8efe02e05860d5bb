//go:build vm

package e2e

import (
	"fmt"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// asleep stops the agent for the length of a test: the API goes on, and no guest is booted for it. What was
// launched meanwhile is terminated before the agent wakes.
func (h *host) asleep(t *testing.T) {
	t.Helper()
	agent, err := h.daemon("agent")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(agent.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var ids []string
		for i := range h.all(t) {
			ids = append(ids, i)
		}
		if len(ids) > 0 {
			if _, err := h.ec2.TerminateInstances(noCancel(t), &ec2.TerminateInstancesInput{InstanceIds: ids}); err != nil {
				t.Error(err)
			}
		}
		// Not SIGCONT: it would see the launches before the terminations, and boot guests. Its successor sees the end.
		if err := syscall.Kill(agent.PID, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		for _, id := range ids {
			h.becomes(t, id, types.InstanceStateNameTerminated)
		}
	})
}

// plain is a request for one small instance.
func plain(image string) *ec2.RunInstancesInput {
	return &ec2.RunInstancesInput{ImageId: &image, InstanceType: "t2.nano", MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
}

// TestClientToken asks twice, across the death of the control plane.
func TestClientToken(t *testing.T) {
	h := the(t)
	image := h.image(t)
	h.asleep(t)
	in := plain(image)
	in.ClientToken = aws.String(unique("the-same"))
	first, err := h.ec2.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	h.kill(t, "control")
	var again *ec2.RunInstancesOutput
	h.must(t, "the same again", func() error {
		again, err = h.ec2.RunInstances(t.Context(), in)
		return err
	})
	if *again.ReservationId != *first.ReservationId || *again.Instances[0].InstanceId != *first.Instances[0].InstanceId {
		t.Errorf("asked again: %s %s, want %s %s", *again.ReservationId, *again.Instances[0].InstanceId, *first.ReservationId, *first.Instances[0].InstanceId)
	}
	in.InstanceType = "t2.micro"
	_, err = h.ec2.RunInstances(t.Context(), in)
	refused(t, err, "IdempotentParameterMismatch")

	// Sixteen at once with one new token are one instance.
	var wg sync.WaitGroup
	var got [16]string
	token := unique("sixteen")
	for k := range got {
		wg.Go(func() {
			in := plain(image)
			in.ClientToken = &token
			if out, err := h.ec2.RunInstances(t.Context(), in); err != nil {
				t.Error(err)
			} else {
				got[k] = *out.Instances[0].InstanceId
			}
		})
	}
	wg.Wait()
	for _, id := range got {
		if id != got[0] {
			t.Errorf("one token made %v", got)
			break
		}
	}
	if n := len(h.all(t)); n != 2 {
		t.Errorf("there are %d instances, want 2", n)
	}
}

// TestSixteenClients launch beside each other, and no address is given twice.
func TestSixteenClients(t *testing.T) {
	h := the(t)
	image := h.image(t)
	h.asleep(t)
	before := len(h.all(t))
	var wg sync.WaitGroup
	var mu sync.Mutex
	at := map[string]string{}
	for range 16 {
		wg.Go(func() {
			c := h.as(h.key[0], h.key[1], "")
			for range 2 {
				out, err := c.ec2.RunInstances(t.Context(), plain(image))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				address, id := *out.Instances[0].PrivateIpAddress, *out.Instances[0].InstanceId
				if other, taken := at[address]; taken {
					t.Errorf("%s and %s both have %s", id, other, address)
				}
				at[address] = id
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := len(h.all(t)) - before; n != 32 || len(at) != 32 {
		t.Errorf("%d instances have %d addresses, want 32 each", n, len(at))
	}
	if n := len(h.private(t)); n != 32+before {
		t.Errorf("the store holds %d addresses, want %d", n, 32+before)
	}

	// All want one address, which nobody has: one gets it.
	address := h.unused(t, "172.31.9.")
	var won int
	for range 16 {
		wg.Go(func() {
			in := plain(image)
			in.PrivateIpAddress = &address
			_, err := h.ec2.RunInstances(t.Context(), in)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if code(err) != "InvalidIPAddress.InUse" {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d got %s, which nobody had", won, address)
	}
}

// unused returns an address that begins so and that no interface has: of those that launches are given, which are
// chosen at random, it may be any.
func (h *host) unused(t *testing.T, begins string) string {
	t.Helper()
	out, err := h.ec2.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
	if err != nil {
		t.Fatal(err)
	}
	had := map[string]bool{}
	for _, n := range out.NetworkInterfaces {
		for _, a := range n.PrivateIpAddresses {
			had[*a.PrivateIpAddress] = true
		}
	}
	for k := range 256 {
		if address := fmt.Sprint(begins, k); !had[address] {
			return address
		}
	}
	t.Fatalf("all 256 addresses %s* are in use", begins)
	return ""
}

// TestPages reads page by page while instances come, and sees those that were there at first, once each.
func TestPages(t *testing.T) {
	h := the(t)
	image := h.image(t)
	h.asleep(t)
	in := plain(image)
	in.MinCount, in.MaxCount = aws.Int32(6), aws.Int32(6)
	in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("set"), Value: aws.String("first")}}}}
	out, err := h.ec2.RunInstances(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for k, i := range out.Instances {
		want[*i.InstanceId] = 1
		if int(*i.AmiLaunchIndex) != k {
			t.Errorf("launch index %d at %d", *i.AmiLaunchIndex, k)
		}
	}
	for range 2 { // further reservations, so that pages have something to divide
		if out, err = h.ec2.RunInstances(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		for _, i := range out.Instances {
			want[*i.InstanceId] = 1
		}
	}
	seen := map[string]int{}
	ask := &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), Filters: append(filter("tag:set", "first"), filter("instance-state-name", "pending")...)}
	for pages := 1; ; pages++ {
		page, err := h.ec2.DescribeInstances(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				seen[*i.InstanceId]++
			}
		}
		if page.NextToken == nil {
			break
		}
		ask.NextToken = page.NextToken
		one := plain(image)
		one.TagSpecifications = in.TagSpecifications
		if pages == 1 {
			if _, err := h.ec2.RunInstances(t.Context(), one); err != nil {
				t.Fatal(err)
			}
			other := *ask
			other.Filters = filter("instance-type", "t2.nano")
			_, err = h.ec2.DescribeInstances(t.Context(), &other)
			refused(t, err, "InvalidNextToken")
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("the pages show %v, want %v", seen, want)
	}
	_, err = h.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{NextToken: aws.String("bm9uc2Vuc2U")})
	refused(t, err, "InvalidNextToken")
	_, err = h.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filter("no-such-filter", "x")})
	refused(t, err, "InvalidParameterValue")
	for name, values := range map[string][]string{"private-ip-address": {*out.Instances[0].PrivateIpAddress}, "reservation-id": {"r-*", "none"}, "owner-id": {*out.OwnerId}, "image-id": {image}} {
		got, err := h.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: filter(name, values...)})
		if err != nil || len(got.Reservations) == 0 {
			t.Errorf("filter %s finds %+v, %v", name, got, err)
		}
	}
	none, err := h.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: append(filter("reservation-id", "r-*"), filter("reservation-id", "none")...)})
	if err != nil || len(none.Reservations) != 0 {
		t.Errorf("two filters that no reservation passes find %+v, %v", none, err)
	}
}
