package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/service"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// crowd is whose events an operator's command speaks of: the instances of a host, or one.
type crowd struct {
	host     cloud.HostID
	instance cloud.InstanceID
}

// holds leaves out what is over, and for whole hosts what does not run: it will not be on the host when the time comes.
func (c crowd) holds(i cloud.Instance) bool {
	if i.Power == cloud.PowerTerminated {
		return false
	}
	if c.instance != "" {
		return i.ID == c.instance
	}
	return i.Host == c.host && i.Power == cloud.PowerRunning
}

// races bounds how often one instance is changed anew because somebody else was faster.
const races = 20

// each changes the instances of a crowd, one transaction for each, and returns those that change has changed. What was done
// before an error stays done: doing it again finds it so, or says which instance it was.
func (c crowd) each(ctx context.Context, client *store.Client, change func(cloud.Instance) (cloud.Instance, bool, error)) ([]cloud.InstanceID, error) {
	list, err := store.List(ctx, client, store.Instances, store.Range{})
	if err != nil {
		return nil, err
	}
	var done []cloud.InstanceID
	for _, o := range list.Objects {
		for try := 0; c.holds(o.Value); try++ {
			next, changed, err := change(o.Value)
			if err != nil {
				return done, err
			}
			if !changed {
				break
			}
			t := store.NewTxn()
			store.Update(t, store.Instances, o, next)
			if _, err = client.Commit(ctx, t); err == nil {
				done = append(done, next.ID)
				break
			}
			if !errors.Is(err, store.ErrConflict) || try == races {
				return done, fmt.Errorf("change %s: %w", next.ID, err)
			}
			if o, err = store.Get(ctx, client, store.Instances, next.ID); errors.Is(err, store.ErrNotFound) {
				break
			} else if err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// announce gives each instance an event of its own.
func (c crowd) announce(ctx context.Context, client *store.Client, e cloud.ScheduledEvent) ([]cloud.InstanceID, error) {
	return c.each(ctx, client, func(i cloud.Instance) (cloud.Instance, bool, error) {
		mine := e
		var err error
		if mine.ID, err = cloud.NewID[cloud.EventID](rand.Reader, "instance-event"); err != nil {
			return i, false, err
		}
		next, err := i.Schedule(mine)
		return next, err == nil, err
	})
}

// end ends all events of each.
func (c crowd) end(ctx context.Context, client *store.Client, as cloud.EventState, now time.Time) ([]cloud.InstanceID, error) {
	return c.each(ctx, client, func(i cloud.Instance) (cloud.Instance, bool, error) {
		next, n := i.EndEvents(as, now)
		return next, n > 0, nil
	})
}

// scheduling are the flags that both commands have.
type scheduling struct {
	dir, etcd, cert, key, ca, host, instance string
}

func (s *scheduling) add(flags *flag.FlagSet) {
	flags.StringVar(&s.dir, "run", "/run/ichiro", "run `directory`")
	flags.StringVar(&s.etcd, "etcd", "", "`endpoints` of an external etcd, comma separated (default: the embedded one of --run)")
	flags.StringVar(&s.cert, "etcd-cert", "", "client certificate `file` for --etcd")
	flags.StringVar(&s.key, "etcd-key", "", "its key `file`")
	flags.StringVar(&s.ca, "etcd-ca", "", "`file` of the CA that signed the servers' certificates")
	flags.StringVar(&s.host, "host", "", "`ID` of the host, for all instances that run there")
	flags.StringVar(&s.instance, "instance", "", "`ID` of the one instance")
}

// open returns the store and whom the command is about.
func (s *scheduling) open(ctx context.Context) (*store.Client, crowd, error) {
	c := crowd{cloud.HostID(s.host), cloud.InstanceID(s.instance)}
	if (c.host == "") == (c.instance == "") {
		return nil, c, service.Usagef("name a host by --host or an instance by --instance")
	}
	if s.etcd == "" {
		s.etcd = "unix://" + bundle.Root(s.dir).Etcd()
	}
	client, err := store.Open(ctx, store.Config{Endpoints: strings.Split(s.etcd, ","), Cert: s.cert, Key: s.key, CA: s.ca})
	if err != nil {
		return nil, c, err
	}
	if c.host != "" {
		_, err = store.Get(ctx, client, store.Hosts, c.host)
	} else {
		_, err = store.Get(ctx, client, store.Instances, c.instance)
	}
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("there is no %s%s in the store", c.host, c.instance)
	}
	if err != nil {
		client.Close()
	}
	return client, c, err
}

// scheduleMaintenance announces what is going to happen to a host. It does not do it, nor does anybody by itself: an
// operator who has announced a reboot reboots.
func scheduleMaintenance(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ichiro-control schedule-maintenance", flag.ContinueOnError)
	var s scheduling
	s.add(flags)
	code := flags.String("code", "system-maintenance", "`kind` of event: "+strings.Join(cloud.EventCodes, ", "))
	in := flags.Duration("in", 24*time.Hour, "how long from now it begins")
	lasts := flags.Duration("for", 0, "how long it takes at most; 0: not said")
	within := flags.Duration("within", 0, "how long from now it must have begun: until then the owner may choose another time; 0: the owner may not")
	why := flags.String("description", "", "what the owner reads")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	e := cloud.ScheduledEvent{Code: *code, Description: *why, NotBefore: now.Add(*in), Announced: now}
	if *lasts != 0 {
		e.NotAfter = e.NotBefore.Add(*lasts)
	}
	if *within != 0 {
		e.Deadline = now.Add(*within)
	}
	if err := e.Check(); err != nil {
		return service.Usage{Err: err}
	}
	client, c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ids, err := c.announce(ctx, client, e)
	say("scheduled for", ids)
	return err
}

// endMaintenance says that what was announced is done, or will not be.
func endMaintenance(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("ichiro-control end-maintenance", flag.ContinueOnError)
	var s scheduling
	s.add(flags)
	canceled := flags.Bool("canceled", false, "it will not happen (default: it is done)")
	if err := service.Parse(flags, args); err != nil {
		return err
	}
	client, c, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	as := cloud.EventCompleted
	if *canceled {
		as = cloud.EventCanceled
	}
	ids, err := c.end(ctx, client, as, time.Now().UTC().Truncate(time.Second))
	say("ended for", ids)
	return err
}

func say(what string, ids []cloud.InstanceID) {
	for _, id := range ids {
		fmt.Fprintln(os.Stdout, what, id)
	}
	if len(ids) == 0 {
		fmt.Fprintln(os.Stdout, what, "no instance")
	}
}
