package mgs

import (
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/runcmd/wire"
)

const guestID = cloud.InstanceID("i-00000000000000001")

// FuzzReply holds whatever an agent may reply to what package delivery relies on.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"jobId":"aws.ssm.00000000-0000-0000-0000-000000000001.i-00000000000000001","content":"{\"documentStatus\":\"Failed\",\"runtimeStatus\":{\"step1\":{\"status\":\"Success\",\"code\":1,\"endDateTime\":\"2199-01-01T00:00:00Z\",\"standardOutput\":\"x\"}}}"}`), 2)
	f.Add([]byte(`{"jobId":"aws.ssm.00000000-0000-0000-0000-000000000001.i-00000000000000001","content":"{\"documentStatus\":\"Success\",\"additionalInfo\":{\"dateTime\":\"2001-01-01T00:00:00Z\",\"runtimeStatusCounts\":{\"Success\":-1}}}"}`), 1)
	f.Fuzz(func(t *testing.T, payload []byte, steps int) {
		in, err := parseReply(payload, guestID)
		if err != nil {
			return
		}
		if !uuid.MatchString(string(in.command)) {
			t.Fatalf("command %q", in.command)
		}
		r := run{asked: 1 + int(uint(steps)%wire.MaxSteps)}
		r.take(in)
		if r.final == nil {
			if r.complete() {
				t.Fatal("complete without a last word")
			}
			return
		}
		stdout, stderr, out := r.result(in.command)
		if len(stdout) > maxRun || len(stderr) > maxRun || out.Outputs != [wire.Streams]int64{int64(len(stdout)), int64(len(stderr))} {
			t.Fatalf("outputs of %d and %d bytes, said to be %v", len(stdout), len(stderr), out.Outputs)
		}
		if len(out.Steps) == 0 || len(out.Steps) > r.asked {
			t.Fatalf("%d steps of %d", len(out.Steps), r.asked)
		}
		success := true
		for _, s := range out.Steps {
			success = success && s.Outcome == wire.Success
			if s.Outcome == "" || s.Started < 0 || s.Ended < 0 || s.Started > out.Now || s.Ended > out.Now {
				t.Fatalf("step %+v, now %v", s, out.Now)
			}
		}
		if success != (r.final.status == "Success") {
			t.Fatalf("%s became %+v", r.final.status, out.Steps)
		}
	})
}

// FuzzFirst holds the first message of a control channel to what is needed of it.
func FuzzFirst(f *testing.F) {
	f.Add([]byte(`{"Cookie":null,"MessageSchemaVersion":"1.0","TokenValue":"x","AgentVersion":"3.3.0.0","PlatformType":"linux"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseFirst(b); err == nil && got.TokenValue == "" {
			t.Fatal("no token, and no error")
		}
	})
}

// FuzzJobID lets no name of a job lead elsewhere than to a command of the instance.
func FuzzJobID(f *testing.F) {
	f.Add("aws.ssm.00000000-0000-0000-0000-000000000001.i-00000000000000001")
	f.Add("aws.ssm.../../x.i-00000000000000001")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := commandOf(s, guestID); err == nil && jobID(id, guestID) != s {
			t.Fatalf("%q became %q", s, id)
		}
	})
}
