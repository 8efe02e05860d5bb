package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ichiro-metal/ichiro/agent/eni"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/shim"
)

// letGoGrace is how long a guest may take to let go of an interface before it is cut off: those that can take a tenth
// of a second, and one that does not answer must not keep an address for ever.
const letGoGrace = 30 * time.Second

// cards is what is to be done about the interfaces of one instance. Nothing of it is kept: every round decides from the
// wish and from what the machine has, so an agent that was killed between two steps goes on where they stand.
//
//	wish         the machine has it    what is done
//	attached     no                    metadata, tap and rules, then plug
//	attached     yes                   nothing
//	detach       yes                   the guest is asked to let go; when it has, tap, rules and metadata go
//	detach       yes, it is deaf       tap, rules and metadata go at once, what the guest still holds is dead
//	detach       no, or no machine     tap, rules and metadata go
//	no wish      yes                   as with a deaf guest
type cards struct {
	keep  []cloud.AssignedInterface // are in the network and in the metadata, in the order of their devices
	plug  []cloud.AssignedInterface
	letGo []cloud.InterfaceID
	cut   []cloud.InterfaceID
	has   []cloud.AttachmentID // what the machine has of keep; of a stopped one, what its next boot will have
}

// machineView is what is known of an instance's machine.
type machineView struct {
	running bool     // it can be asked for something
	there   bool     // there is a machine, or may be one
	cards   []string // that it has, Cut ones not; nil until it has said so
	counted bool     // it has said so
	dead    []string // that were cut off
	deaf    bool     // nothing in it would answer
}

// decideCards is pure. asked tells since when the guest has been asked to let go of an attachment.
func decideCards(a cloud.Assignment, m machineView, asked map[cloud.AttachmentID]time.Time, now time.Time) (c cards) {
	wished := map[string]bool{}
	for _, n := range a.Interfaces {
		id := string(n.ID)
		wished[id] = true
		in := slices.Contains(m.cards, id)
		since, was := asked[n.Attachment]
		late := m.deaf || was && now.Sub(since) >= letGoGrace
		switch {
		case n.Detach == cloud.DetachNot:
			c.keep = append(c.keep, n)
			if m.running && m.counted && !in && n.DeviceIndex > 0 {
				c.plug = append(c.plug, n)
			}
			if in || !m.there && a.Instance.Power == cloud.PowerStopped {
				c.has = append(c.has, n.Attachment)
			}
		case !m.there:
		case n.Detach == cloud.DetachForce || late:
			if in {
				c.cut = append(c.cut, n.ID)
			}
		case in || !m.counted:
			c.keep, c.has = append(c.keep, n), append(c.has, n.Attachment)
			if m.running { // also where nobody has counted its cards: the guest's time to let go begins
				c.letGo = append(c.letGo, n.ID)
			}
		}
	}
	for _, id := range m.cards {
		if !wished[id] {
			c.cut = append(c.cut, cloud.InterfaceID(id))
		}
	}
	for _, id := range m.dead {
		c.letGo = append(c.letGo, cloud.InterfaceID(id)) // QEMU forgets that it has asked when the guest was not listening
	}
	slices.SortStableFunc(c.keep, func(x, y cloud.AssignedInterface) int { return cmp.Compare(x.DeviceIndex, y.DeviceIndex) })
	slices.Sort(c.has)
	return c
}

// ports returns how many PCI Express ports a machine gets: one for each interface that may come and go, which is all but
// the first. One more for each volume is what hot plug of disks will add.
func ports(a cloud.Assignment) int {
	return min(max(a.Type.Interfaces, len(a.Interfaces), 1)-1, 64)
}

// view reads what is known of a machine.
func (h *Host) view(id cloud.InstanceID, a cloud.Assignment) machineView {
	alive := h.Units.Alive(id)
	st, err := shim.ReadStatus(string(h.Root.Instance(id)))
	if err != nil {
		// Without a status and a unit there is no machine; a status that cannot be read may be of one.
		return machineView{there: alive || !errors.Is(err, fs.ErrNotExist)}
	}
	v := machineView{
		there:   !st.State.Ended(),
		running: alive && st.State == shim.StateRunning && a.Instance.Power == cloud.PowerRunning && st.Boot == a.Instance.Boot,
		counted: len(st.Cards) > 0,
		deaf:    st.State == shim.StatePanicked,
		dead:    st.Cut,
	}
	for _, c := range st.Cards {
		if !slices.Contains(st.Cut, c) {
			v.cards = append(v.cards, c)
		}
	}
	return v
}

// consider decides about the interfaces of all instances.
func (h *Host) consider(want map[cloud.InstanceID]cloud.Assignment) {
	now := h.Now()
	h.cards, h.trouble = make(map[cloud.InstanceID]cards, len(want)), map[cloud.InstanceID]string{}
	leaving := map[cloud.AttachmentID]bool{}
	for id, a := range want {
		h.cards[id] = decideCards(a, h.view(id, a), h.asked, now)
		for _, n := range a.Interfaces {
			leaving[n.Attachment] = n.Detach != cloud.DetachNot
		}
	}
	for at := range h.asked {
		if !leaving[at] {
			delete(h.asked, at)
		}
	}
}

// announceCards writes into the metadata of running guests what they are about to get, before the network knows of it,
// and so before the device: a guest that finds a device finds it in its metadata.
func (h *Host) announceCards(want map[cloud.InstanceID]cloud.Assignment) error {
	var errs []error
	for id, c := range h.cards {
		a := want[id]
		if len(c.plug) == 0 || a.Instance.Power != cloud.PowerRunning {
			continue
		}
		a.Interfaces = c.keep
		if err := h.prepare(h.Root.Instance(id), a); err != nil {
			errs = append(errs, fmt.Errorf("announce interfaces to %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// askWait bounds one request to a shim about a card: other instances wait meanwhile.
const askWait = 5 * time.Second

// plug carries out what was decided about the cards of a machine that runs. What fails is said in the status, too.
func (h *Host) plug(ctx context.Context, id cloud.InstanceID, st shim.Status) error {
	c := h.cards[id]
	if len(c.plug)+len(c.letGo)+len(c.cut) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	var errs []error
	var sentences []string
	tell := func(verb string, eni cloud.InterfaceID, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s of %s: %w", verb, eni, id, err))
			sentences = append(sentences, fmt.Sprintf("%s %s: %v", verb, eni, err))
		}
	}
	for _, n := range c.cut {
		tell("cut off", n, h.Units.Cut(ctx, id, string(n)))
	}
	for _, n := range c.letGo {
		tell("detach", n, h.Units.LetGo(ctx, id, string(n)))
		if sentence := h.leaving(id, n); sentence != "" {
			sentences = append(sentences, sentence)
		}
	}
	for _, n := range c.plug {
		tell("attach", n.ID, h.plugOne(ctx, id, n))
	}
	h.trouble[id] = strings.Join(sentences, "; ")
	return errors.Join(errs...)
}

// leaving notes that the guest has been asked for an interface; of one that takes long it returns a sentence.
func (h *Host) leaving(id cloud.InstanceID, eni cloud.InterfaceID) string {
	for _, n := range h.cards[id].keep {
		if n.ID != eni {
			continue
		}
		since, ok := h.asked[n.Attachment]
		if !ok {
			h.asked[n.Attachment] = h.Now()
			h.Log.Info("guest asked to let go of an interface", "instance", id, "eni", eni)
			return ""
		}
		if h.Now().Sub(since) > letGoGrace/3 {
			return fmt.Sprintf("the guest does not let go of %s: detach it by force, or wait until it is cut off", eni)
		}
	}
	return ""
}

// plugOne puts one card into a machine. The tap has one queue: when QEMU holds it without having the card, a shim was
// killed between the two, and takes the tap back when asked to.
func (h *Host) plugOne(ctx context.Context, id cloud.InstanceID, n cloud.AssignedInterface) error {
	tap, err := h.Network.Tap(n.ID)
	if errors.Is(err, syscall.EBUSY) {
		if err := h.Units.Cut(ctx, id, string(n.ID)); err != nil {
			return err
		}
		tap, err = h.Network.Tap(n.ID)
	}
	if err != nil {
		return err
	}
	defer tap.Close()
	h.Log.Info("plugging interface", "instance", id, "eni", n.ID)
	return h.Units.Plug(ctx, id, shim.Card{ID: string(n.ID), MAC: n.MAC, MTU: cmp.Or(h.MTU, eni.DefaultMTU)}, tap)
}

// attached returns the attachments that the machine has now. One that is on its way out is among them while this round
// has kept its tap, or could not take it away: its address may lead here.
func (h *Host) attached(id cloud.InstanceID, a cloud.Assignment) []cloud.AttachmentID {
	has := decideCards(a, h.view(id, a), h.asked, h.Now()).has
	for _, n := range h.cards[id].keep {
		if n.Detach != cloud.DetachNot {
			has = append(has, n.Attachment)
		}
	}
	for _, n := range a.Interfaces {
		if h.unsettled && slices.Contains(h.reported[id].Attached, n.Attachment) {
			has = append(has, n.Attachment)
		}
	}
	slices.Sort(has)
	return slices.Compact(has)
}
