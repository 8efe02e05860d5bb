package provision

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/internal/userdata/config"
)

// powerState decides whether the machine ends when all is done.
func (r *run) powerState(ctx context.Context) {
	p := r.plan.Power
	if p == nil || p.Never {
		return
	}
	if len(p.Condition) > 0 {
		argv := p.Condition
		if p.Shell {
			argv = []string{"/bin/sh", "-c", p.Condition[0]}
		}
		code, err := r.Commands.Run(ctx, Command{Argv: argv})
		if err != nil || code > 1 {
			r.trouble("power_state: its condition ended with exit code %d: the machine goes on", code)
			return
		}
		if code == 1 {
			r.say("INFO", "power_state: its condition does not hold: the machine goes on")
			return
		}
	}
	r.power = p
}

// end is what ends the machine, after the result is written.
func (r *run) end() func(context.Context) error {
	p := r.power
	if r.reboot {
		p = &config.Power{Mode: "reboot"}
	}
	if p == nil {
		return nil
	}
	return func(ctx context.Context) error {
		r.say("INFO", "the machine will %s in %d minutes", p.Mode, p.Minutes)
		argv := []string{p.Mode}
		if r.Commands.Look("shutdown") {
			when := "now"
			if p.Minutes > 0 {
				when = "+" + strconv.Itoa(p.Minutes)
			}
			argv = []string{"shutdown", map[string]string{"poweroff": "-P", "reboot": "-r", "halt": "-H"}[p.Mode], when}
			if p.Message != "" {
				argv = append(argv, p.Message)
			}
		} else {
			select { // there is nobody else to wait
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(p.Minutes) * time.Minute):
			}
		}
		code, err := r.Commands.Run(ctx, Command{Argv: argv})
		if err == nil && code != 0 {
			err = fmt.Errorf("%s ended with exit code %d", argv[0], code)
		}
		if err != nil {
			r.trouble("power_state: %v", err)
		}
		return err
	}
}
