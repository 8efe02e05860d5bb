package ec2

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Several control processes with mirrors of their own, each behind the others by as much as it happens to be.
func (r *rig) processes(n int) []*Service {
	out := []*Service{r.Service}
	for len(out) < n {
		out = append(out, r.another())
	}
	return out
}

// atOnce runs f in each process the given times, all at the same time, and returns the errors.
func atOnce(processes []*Service, times int, f func(s *Service, k int) error) []error {
	out := make([]error, len(processes)*times)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for k := range out {
		wg.Go(func() {
			<-begin
			out[k] = f(processes[k%len(processes)], k)
		})
	}
	close(begin)
	wg.Wait()
	return out
}

func TestRulesThatAreAuthorizedAtOnceAreAllThere(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	errs := atOnce(r.processes(3), 8, func(s *Service, k int) error {
		_, err := s.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: id, IpPermissions: []shape.IpPermission{tcp(1+k, "10.0.0.0/8")}})
		return err
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := len(r.show(id).IpPermissions); got != 24 {
		t.Errorf("got %d rules, want 24", got)
	}
}

func TestOfSeveralGroupsOfOneNameOneIsMade(t *testing.T) {
	r := newRig(t)
	errs := atOnce(r.processes(3), 5, func(s *Service, _ int) error {
		_, err := s.CreateSecurityGroup(r.ctx, &shape.CreateSecurityGroupInput{GroupName: "g", Description: "d"})
		return err
	})
	made := 0
	for _, err := range errs {
		switch cloud.Code(err) {
		case "InvalidGroup.Duplicate":
		case "":
			if err != nil {
				t.Error(err)
			}
			made++
		default:
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d were made, want 1", made)
	}
}

// Whoever uses a group and whoever deletes it at the same time cannot both win, in whichever order they come.
func TestAGroupIsNotDeletedUnderItsUsers(t *testing.T) {
	r := newRig(t)
	processes := r.processes(4)
	wins := map[string]int{}
	for round := range 12 {
		id, user := r.group(fmt.Sprintf("g%d", round)), r.group(fmt.Sprintf("user%d", round))
		launched := round%2 == 0
		errs := atOnce(processes, 1, func(s *Service, k int) (err error) {
			switch {
			case k%2 == 0:
				_, err = s.DeleteSecurityGroup(r.ctx, &shape.DeleteSecurityGroupInput{GroupId: id})
			case launched:
				in := small()
				in.SecurityGroupIds = []string{id}
				_, err = s.RunInstances(r.ctx, in)
			default:
				_, err = s.AuthorizeSecurityGroupIngress(r.ctx, &shape.AuthorizeSecurityGroupIngressInput{GroupId: user, IpPermissions: []shape.IpPermission{
					{IpProtocol: "tcp", FromPort: number(k), ToPort: number(k), UserIdGroupPairs: []shape.UserIdGroupPair{{GroupId: id}}}}})
			}
			return err
		})
		for k, err := range errs {
			switch cloud.Code(err) {
			case "", "DependencyViolation", "InvalidGroup.NotFound":
			default:
				t.Errorf("round %d, client %d: %v", round, k, err)
			}
		}
		_, err := store.Get(t.Context(), r.Store, store.Groups, id)
		gone := errors.Is(err, store.ErrNotFound)
		if used := errs[1] == nil || errs[3] == nil; used == gone {
			t.Errorf("round %d: the group is gone: %v, and it is used: %v", round, gone, used)
		}
		wins[fmt.Sprint("deleted: ", gone)]++
	}
	t.Log(wins)
}

// The order that a snapshot cannot see: the interface is made after the one who deletes has looked.
func TestAUserThatComesAfterTheLookIsSeen(t *testing.T) {
	r := newRig(t)
	id := r.group("g")
	snap := r.Mirror.Snapshot()
	o, err := store.MirroredGet(snap, store.Groups, id)
	if err != nil {
		t.Fatal(err)
	}
	in := small()
	in.SecurityGroupIds = []string{id}
	r.run(in)
	late := store.NewTxn()
	store.Delete(late, store.Groups, o) // the group itself is as it was
	store.RequireNothingNew(late, store.Interfaces, snap.Rev())
	if _, err := r.Store.Commit(t.Context(), late); !errors.Is(err, store.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
}
