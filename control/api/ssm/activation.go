package ssm

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/enrol"
	"github.com/ichiro-metal/ichiro/internal/printable"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// Limits of activations: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_CreateActivation.html
const (
	activationLife     = 24 * time.Hour
	longestActivation  = 30 * 24 * time.Hour
	mostRegistrations  = 1000
	activationText     = 256
	activationRole     = 64
	codeBytes          = 15 // 20 characters
	registrationAnswer = 10 * time.Second
)

func (s *Service) activationActions() []api.Action {
	ro := api.ReadOnly()
	return []api.Action{
		api.Do("CreateActivation", s.CreateActivation),
		api.Do("DeleteActivation", s.DeleteActivation),
		api.Do("DescribeActivations", s.DescribeActivations, ro),
		api.Do("DeregisterManagedInstance", s.DeregisterManagedInstance,
			api.Resource(func(in *shape.DeregisterManagedInstanceInput) []string {
				return []string{"managed-instance/" + in.InstanceId}
			})),
		api.Do("UpdateManagedInstanceRole", s.UpdateManagedInstanceRole,
			api.Resource(func(in *shape.UpdateManagedInstanceRoleInput) []string {
				return []string{"managed-instance/" + in.InstanceId}
			})),
	}
}

// CreateActivation answers with a code by which machines may register. It is shown once.
func (s *Service) CreateActivation(ctx context.Context, in *shape.CreateActivationInput) (*shape.CreateActivationOutput, error) {
	now := s.Now().UTC()
	a := cloud.Activation{
		Account: caller(ctx), Description: in.Description, Name: in.DefaultInstanceName, Role: in.IamRole, Limit: 1,
		Created: now, Expires: now.Add(activationLife), Tags: cloud.Tags{},
	}
	if in.RegistrationLimit != nil {
		a.Limit = int(*in.RegistrationLimit)
	}
	if in.ExpirationDate != nil {
		a.Expires = in.ExpirationDate.UTC()
	}
	switch {
	case utf8.RuneCountInString(a.Description) > activationText || utf8.RuneCountInString(a.Name) > activationText:
		return nil, cloud.Errorf("ValidationException", "Description and DefaultInstanceName may have %d characters each", activationText)
	case !isRole(a.Role):
		return nil, errNoRole
	case a.Limit < 1 || a.Limit > mostRegistrations:
		return nil, cloud.Errorf("ValidationException", "RegistrationLimit is 1 to %d, not %d", mostRegistrations, a.Limit)
	case !a.Expires.After(now) || a.Expires.Sub(now) > longestActivation:
		return nil, cloud.Errorf("ValidationException", "ExpirationDate must be in the next 30 days")
	}
	var err error
	if a.Tags, err = merge(a.Tags, in.Tags); err != nil {
		return nil, err
	}
	id, err := cloud.NewUUID(s.Rand)
	if err != nil {
		return nil, err
	}
	var b [codeBytes]byte
	if _, err := io.ReadFull(s.Rand, b[:]); err != nil {
		return nil, err
	}
	code := base64.RawURLEncoding.EncodeToString(b[:])
	a.ID, a.Code = cloud.ActivationID(id), cloud.ActivationCode(code)
	t := store.NewTxn()
	store.Create(t, store.Activations, a.ID, a)
	rev, err := s.Store.Commit(ctx, t)
	if err != nil {
		return nil, err
	}
	note{Activation: a.ID}.on(ctx)
	return &shape.CreateActivationOutput{ActivationId: id, ActivationCode: code}, s.Mirror.WaitRev(ctx, rev)
}

// errNoRole is what stands where the name of a role should.
var errNoRole = cloud.Errorf("ValidationException", "IamRole is the name of a role, of at most %d characters", activationRole)

func isRole(name string) bool { return name != "" && len(name) <= activationRole }

// DeleteActivation lets no machine register any more. Those that have stay.
func (s *Service) DeleteActivation(ctx context.Context, in *shape.DeleteActivationInput) (*shape.DeleteActivationOutput, error) {
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := store.MirroredGet(snap, store.Activations, nonEmpty(in.ActivationId))
		if errors.Is(err, store.ErrNotFound) || err == nil && o.Value.Account != caller(ctx) {
			return nil, cloud.Errorf("InvalidActivationId", "There is no activation %.40s: see describe-activations", in.ActivationId)
		}
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		note{Activation: o.Value.ID}.on(ctx)
		store.Delete(t, store.Activations, o)
		return t, nil
	})
	return &shape.DeleteActivationOutput{}, err
}

// DescribeActivations shows the account's, without their codes.
func (s *Service) DescribeActivations(ctx context.Context, in *shape.DescribeActivationsInput) (*shape.DescribeActivationsOutput, error) {
	page, snap, err := s.page(ctx, in)
	if err != nil {
		return nil, err
	}
	for _, f := range in.Filters { // whatever activations there are
		if _, err := activated(cloud.Activation{}, f); err != nil {
			return nil, err
		}
	}
	all, err := store.Mirrored(snap, store.Activations)
	if err != nil {
		return nil, err
	}
	var out []shape.Activation
	for _, o := range all {
		a := o.Value
		keep := a.Account == caller(ctx)
		for _, f := range in.Filters {
			ok, _ := activated(a, f)
			keep = keep && ok
		}
		if keep {
			out = append(out, shape.Activation{
				ActivationId: string(a.ID), CreatedDate: &a.Created, DefaultInstanceName: a.Name, Description: a.Description, ExpirationDate: &a.Expires,
				Expired: ptr(s.Now().After(a.Expires)), IamRole: a.Role, RegistrationLimit: number(a.Limit), RegistrationsCount: number(a.Count), Tags: tags(a.Tags),
			})
		}
	}
	cut, next := api.Cut(page, snap.Rev(), out, func(a shape.Activation) string { return newestFirst(a.CreatedDate, a.ActivationId) })
	return &shape.DescribeActivationsOutput{ActivationList: cut, NextToken: next}, nil
}

func activated(a cloud.Activation, f shape.DescribeActivationsFilter) (bool, error) {
	switch f.FilterKey {
	case "ActivationIds":
		return slices.Contains(f.FilterValues, string(a.ID)), nil
	case "DefaultInstanceName":
		return slices.Contains(f.FilterValues, a.Name), nil
	case "IamRole":
		return slices.Contains(f.FilterValues, a.Role), nil
	}
	return false, cloud.Errorf("InvalidFilter", "FilterKey %.40q is not known: ActivationIds, DefaultInstanceName and IamRole are", f.FilterKey)
}

// DeregisterManagedInstance forgets a machine. Its agent is hung up on, and let in no more.
func (s *Service) DeregisterManagedInstance(ctx context.Context, in *shape.DeregisterManagedInstanceInput) (*shape.DeregisterManagedInstanceOutput, error) {
	err := s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.node(ctx, snap, in.InstanceId)
		if err != nil {
			return nil, err
		}
		t := store.NewTxn()
		store.Delete(t, store.Nodes, o)
		store.Remove(t, store.NodeWishes(o.Value.Host), o.Value.ID)
		return t, nil
	})
	return &shape.DeregisterManagedInstanceOutput{}, err
}

// UpdateManagedInstanceRole gives a machine another role, which is a name here, as it was when it registered.
func (s *Service) UpdateManagedInstanceRole(ctx context.Context, in *shape.UpdateManagedInstanceRoleInput) (*shape.UpdateManagedInstanceRoleOutput, error) {
	if !isRole(in.IamRole) {
		return nil, errNoRole
	}
	return &shape.UpdateManagedInstanceRoleOutput{}, s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := s.node(ctx, snap, in.InstanceId)
		if err != nil {
			return nil, err
		}
		next := o.Value
		next.Role = in.IamRole
		t := store.NewTxn()
		store.Update(t, store.Nodes, o, next)
		return t, nil
	})
}

// node returns the caller's managed machine.
func (s *Service) node(ctx context.Context, snap *store.Snapshot, id string) (store.Object[cloud.ManagedNode], error) {
	o, err := store.MirroredGet(snap, store.Nodes, nonEmpty(id))
	if errors.Is(err, store.ErrNotFound) || err == nil && o.Value.Account != caller(ctx) {
		return o, cloud.Errorf("InvalidInstanceId", "There is no managed machine %.40s: see describe-instance-information", id)
	}
	return o, err
}

// Registrations answers machines that register, which come through a host's gateway (package enrol).
func Registrations(cfg Config) http.Handler {
	s := &Service{cfg}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, ok := api.Gateway(r.Context())
		if !ok || r.Method != http.MethodPost {
			http.Error(w, "Machines register at a host's gateway: ichiro-runcmd register", http.StatusForbidden)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), registrationAnswer)
		defer cancel()
		var req enrol.Request
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, enrol.MaxRequest)).Decode(&req)
		if err != nil {
			http.Error(w, "The request can not be read", http.StatusBadRequest)
			return
		}
		node, err := s.register(ctx, host, req)
		if err != nil {
			var known cloud.Error
			if !errors.As(err, &known) {
				s.Log.Error("register a machine", "err", err)
				http.Error(w, "The control plane can not answer now: try again", http.StatusServiceUnavailable)
				return
			}
			if s.Registered != nil {
				s.Registered(cloud.ManagedNode{Activation: cloud.ActivationID(printable.Word(req.Activation, activationText))}, r.RemoteAddr, known.Code)
			}
			http.Error(w, known.Message, http.StatusForbidden)
			return
		}
		if s.Registered != nil {
			s.Registered(node, r.RemoteAddr, "")
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(enrol.Answer{Instance: node.ID})
	})
}

// keyForm is a SHA-256 in hex.
var keyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// register makes a machine of a request. One whose answer was lost, and that asks again with its key, is told the same.
func (s *Service) register(ctx context.Context, host cloud.HostID, req enrol.Request) (cloud.ManagedNode, error) {
	if !keyForm.MatchString(req.Key) || host == "" {
		return cloud.ManagedNode{}, cloud.Errorf("ValidationException", "The machine has shown no key")
	}
	id, err := cloud.NewID[cloud.InstanceID](s.Rand, cloud.ManagedPrefix)
	if err != nil {
		return cloud.ManagedNode{}, err
	}
	var node cloud.ManagedNode
	err = s.commit(ctx, func(snap *store.Snapshot) (*store.Txn, error) {
		o, err := store.MirroredGet(snap, store.Activations, nonEmpty(strings.ToLower(req.Activation)))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		a := o.Value // one that is not there admits nobody, and says the same as a wrong code
		nodes, err := store.Mirrored(snap, store.Nodes)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			if n.Value.Key == req.Key && n.Value.Activation == a.ID && n.Value.Host == host && a.Code == cloud.ActivationCode(req.Code) {
				node = n.Value
				return nil, nil
			}
		}
		if err := a.Admits(req.Code, s.Now()); err != nil {
			return nil, err
		}
		node = cloud.ManagedNode{
			ID: id, Account: a.Account, Activation: a.ID, Name: cmp.Or(a.Name, printable.Word(req.Name, activationText)), Role: a.Role, Host: host, Key: req.Key,
			Registered: s.Now().UTC(), Tags: a.Tags,
		}
		a.Count++
		t := store.NewTxn()
		store.Update(t, store.Activations, o, a)
		store.Create(t, store.Nodes, id, node)
		store.Create(t, store.NodeWishes(host), id, node.Wish())
		return t, nil
	})
	return node, err
}
