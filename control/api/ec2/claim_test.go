package ec2

import (
	"sync"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// wanted is the address that all clients of these tests want.
const wanted = "172.31.64.9"

// race has 16 clients of two control processes want the one address at the same moment. It returns whose it became; any
// refusal but that it is in use fails the test.
func (p *processes) race(ask func(s *Service) (string, error)) (winners []string) {
	p.Helper()
	var mu sync.Mutex
	var clients sync.WaitGroup
	begin := make(chan struct{})
	for k := range 16 {
		clients.Go(func() {
			<-begin
			id, err := ask(p.each[k%2])
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				winners = append(winners, id)
			case cloud.Code(err) != "InvalidIPAddress.InUse":
				p.Errorf("client %d: %v", k, err)
			}
		})
	}
	close(begin)
	clients.Wait()
	return winners
}

// Who is told that an address is in use is told so because somebody has it: of 16 who want a free one, one gets it. The
// next round begins as soon as the process that was asked to has given it back: the other has not heard of that.
func TestOfManyWhoWantOneAddressOneGetsIt(t *testing.T) {
	p := newProcesses(t)
	for round := range 300 {
		winners := p.race(func(s *Service) (string, error) {
			out, err := s.CreateNetworkInterface(p.ctx, &shape.CreateNetworkInterfaceInput{SubnetId: narrow, PrivateIpAddress: wanted})
			if err != nil {
				return "", err
			}
			return out.NetworkInterface.NetworkInterfaceId, nil
		})
		if len(winners) != 1 {
			t.Fatalf("round %d: %d of 16 got the one address: %v", round, len(winners), winners)
		}
		if _, err := p.each[round%2].DeleteNetworkInterface(p.ctx, &shape.DeleteNetworkInterfaceInput{NetworkInterfaceId: winners[0]}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// The same of launches, with planners that place and end the instances meanwhile.
func TestOfManyLaunchesWithOneAddressOneGetsIt(t *testing.T) {
	p := newProcesses(t)
	for round := range 60 {
		winners := p.race(func(s *Service) (string, error) {
			out, err := s.RunInstances(p.ctx, &shape.RunInstancesInput{ImageId: ami, InstanceType: "t2.nano", SubnetId: narrow, PrivateIpAddress: wanted, MinCount: ptr(int64(1)), MaxCount: ptr(int64(1))})
			if err != nil {
				return "", err
			}
			return out.Instances[0].InstanceId, nil
		})
		if len(winners) != 1 {
			t.Fatalf("round %d: %d of 16 got the one address: %v", round, len(winners), winners)
		}
		if _, err := p.each[round%2].TerminateInstances(p.ctx, &shape.TerminateInstancesInput{InstanceIds: winners}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := p.released(winners[0]); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
}

// released waits until a terminated instance has given back what it had.
func (p *processes) released(id string) error {
	for {
		o, err := store.Get(p.ctx, p.c, store.Instances, id)
		if err != nil || len(o.Value.Interfaces) == 0 {
			return err
		}
	}
}
