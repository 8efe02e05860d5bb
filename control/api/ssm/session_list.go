package ssm

import (
	"context"
	"strconv"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// DescribeSessions lists the account's sessions, the newest first.
func (s *Service) DescribeSessions(ctx context.Context, in *shape.DescribeSessionsInput) (*shape.DescribeSessionsOutput, error) {
	if in.State != "Active" && in.State != "History" {
		return nil, cloud.Errorf("ValidationException", "State is Active or History, not %.20q", in.State)
	}
	if len(in.Filters) > 6 {
		return nil, cloud.Errorf("ValidationException", "Filters may have 6 elements")
	}
	for _, f := range in.Filters { // whatever sessions there are
		if _, err := sessionPasses(cloud.Session{}, f); err != nil {
			return nil, err
		}
	}
	page, err := s.Pager.Page(ctx, in, api.Bounds{Default: 200, Min: 1, Max: 200})
	if err != nil {
		return nil, err
	}
	snap := s.Mirror.Snapshot()
	all, err := store.Mirrored(snap, store.Sessions)
	if err != nil {
		return nil, err
	}
	var found []cloud.Session
	for _, o := range all {
		if o.Value.Account != caller(ctx) || (o.Value.End == nil) != (in.State == "Active") {
			continue
		}
		keep := true
		for _, f := range in.Filters {
			ok, err := sessionPasses(o.Value, f)
			if err != nil {
				return nil, err
			}
			keep = keep && ok
		}
		if keep {
			found = append(found, o.Value)
		}
	}
	found, next := api.Cut(page, snap.Rev(), found, func(x cloud.Session) string { return newestFirst(&x.Started, string(x.ID)) })
	out := &shape.DescribeSessionsOutput{Sessions: []shape.Session{}, NextToken: next}
	for _, x := range found {
		out.Sessions = append(out.Sessions, sessionShape(x))
	}
	return out, nil
}

// sessionStatus is a session's state in Session Manager's words.
func sessionStatus(x cloud.Session) string {
	switch {
	case x.End != nil && x.End.Reason == "failed":
		return "Failed"
	case x.End != nil:
		return "Terminated"
	case x.Terminate:
		return "Terminating"
	}
	return "Connected"
}

func sessionShape(x cloud.Session) shape.Session {
	out := shape.Session{
		SessionId: string(x.ID), Target: string(x.Target), Status: sessionStatus(x), StartDate: &x.Started,
		DocumentName: x.Document, Owner: x.Owner, Reason: x.Reason,
	}
	if x.Plan.Longest > 0 {
		out.MaxSessionDuration = strconv.Itoa(int(x.Plan.Longest / time.Minute))
	}
	if x.End != nil {
		out.EndDate, out.Details = &x.End.At, x.End.Reason
	}
	return out
}

func sessionPasses(x cloud.Session, f shape.SessionFilter) (bool, error) {
	switch f.Key {
	case "InvokedAfter", "InvokedBefore":
		at, err := time.Parse(time.RFC3339, f.Value)
		if err != nil {
			return false, cloud.Errorf("InvalidFilterKey", "%s takes a time such as 2026-11-23T10:00:00Z", f.Key)
		}
		return x.Started.After(at) == (f.Key == "InvokedAfter"), nil
	case "Target":
		return string(x.Target) == f.Value, nil
	case "Owner":
		return x.Owner == f.Value, nil
	case "Status":
		return sessionStatus(x) == f.Value, nil
	case "SessionId":
		return string(x.ID) == f.Value, nil
	}
	return false, cloud.Errorf("InvalidFilterKey", "Filter key %.40q is not known", f.Key)
}
