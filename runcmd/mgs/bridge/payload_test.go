package bridge

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestWhatTheAgentIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		plan cloud.SessionPlan
		want string
	}{
		"a shell": {
			cloud.SessionPlan{Kind: cloud.SessionShell},
			`{"DocumentName":"SSM-SessionManagerRunShell","DocumentContent":{"schemaVersion":"1.0","description":"a session of ichiro","sessionType":"Standard_Stream",` +
				`"inputs":{"s3BucketName":"","s3KeyPrefix":"","cloudWatchLogGroupName":"","runAsEnabled":false,"runAsDefaultUser":"","shellProfile":{"linux":""}},` +
				`"parameters":{},"properties":{}},"SessionId":"ann-1","Parameters":{},"RunAsUser":"","SessionOwner":"ann"}`,
		},
		"a command of a user": {
			cloud.SessionPlan{Kind: cloud.SessionCommand, Command: "top", User: "bob"},
			`{"DocumentName":"SSM-SessionManagerRunShell","DocumentContent":{"schemaVersion":"1.0","description":"a session of ichiro","sessionType":"InteractiveCommands",` +
				`"inputs":{"s3BucketName":"","s3KeyPrefix":"","cloudWatchLogGroupName":"","runAsEnabled":true,"runAsDefaultUser":"bob","shellProfile":{"linux":""}},` +
				`"parameters":{},"properties":{"linux":{"commands":"top","runAsElevated":false}}},"SessionId":"ann-1","Parameters":{},"RunAsUser":"bob","SessionOwner":"ann"}`,
		},
		"a port of another host": {
			cloud.SessionPlan{Kind: cloud.SessionPort, Host: "db", Port: 5432},
			`{"DocumentName":"SSM-SessionManagerRunShell","DocumentContent":{"schemaVersion":"1.0","description":"a session of ichiro","sessionType":"Port",` +
				`"inputs":{"s3BucketName":"","s3KeyPrefix":"","cloudWatchLogGroupName":"","runAsEnabled":false,"runAsDefaultUser":"","shellProfile":{"linux":""}},` +
				`"parameters":{},"properties":{"portNumber":"5432","localPortNumber":"0","type":"LocalPortForwarding","host":"db"}},"SessionId":"ann-1","Parameters":{},"RunAsUser":"","SessionOwner":"ann"}`,
		},
	} {
		got, err := newTask("ann-1", c.plan)
		if err != nil || got.Content != c.want || got.TaskID != "ann-1" || got.Topic != "aws.ssm.startSession" {
			t.Errorf("%s: got %v\n%s\nwant\n%s", name, err, got.Content, c.want)
		}
	}
	for name, p := range map[string]cloud.SessionPlan{
		"a kind that is none": {Kind: "Telepathy"},
		"a secret":            {Kind: cloud.SessionBatch, Command: "x {{ ssm-secure:y }}"},
		"metadata":            {Kind: cloud.SessionPort, Host: "fd00:ec2::254", Port: 80},
	} {
		if got, err := newTask("ann-1", p); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestVersionsThatMultiplex(t *testing.T) {
	for version, want := range map[string]bool{
		"3.0.196.0": false, "3.0.197": false, "3.3.1.0": false, "4.0": false, "3.0.195.9": true, "2.9.999.0": true, "": true, "x.y.z": true,
	} {
		if got := older(version, firstMux); got != want {
			t.Errorf("%q: got %v, want %v", version, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for in, want := range map[string]int{"0": 0, "7": 7, "255": 255, "256": -1, "-1": -1, "\x00\x00\x00\x09": 9, "\x00\x00\x01\x09": -1, "": -1, "x": -1} {
		if got := exitCode([]byte(in)); got != want {
			t.Errorf("%q: got %d, want %d", in, got, want)
		}
	}
}

// FuzzWords holds whatever an agent may say of a session to what is passed on.
func FuzzWords(f *testing.F) {
	f.Add([]byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Port"}}]}`))
	f.Add([]byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"x"}}]}`))
	f.Add([]byte(`{"SchemaVersion":1,"TaskId":"ann-1","FinalTaskStatus":"Success","Output":"\u001b[2J"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []cloud.SessionKind{cloud.SessionPort, cloud.SessionShell} {
			out, err := response(b, cloud.SessionPlan{Kind: kind})
			if err == nil && (!json.Valid(out) || len(out) > 8<<10+8*len(b)) {
				t.Fatalf("answered with %d bytes: %q", len(out), out)
			}
			if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Fatalf("error %q", err)
			}
		}
		if c, err := parseCompletion(b); err == nil && !c.TaskID.WellFormed() {
			t.Fatalf("session %q", c.TaskID)
		}
		if n := exitCode(b); n < -1 || n > 255 {
			t.Fatalf("code %d", n)
		}
	})
}
