package host

import (
	"log/slog"
	"slices"
	"testing"
)

func TestWhatTheOperatorSaysOfNamesAndTimeReachesTheirServer(t *testing.T) {
	for _, d := range daemons(Options{Resolvers: "192.0.2.53", TrustClock: true}, Users{}, nil, slog.New(slog.DiscardHandler)) {
		if d.Name != "imds" {
			continue
		}
		if k := slices.Index(d.Args, "--resolvers"); k < 0 || d.Args[k+1] != "192.0.2.53" || !slices.Contains(d.Args, "--trust-clock=true") {
			t.Errorf("ichiro-imds is started with %q", d.Args)
		}
		return
	}
	t.Error("ichiro-imds is not started")
}

func TestExportsGiveAShellNothingToRun(t *testing.T) {
	got, err := exports("http://[::1]:8773", "AKIA0123456789ABCDEF", "a/b+c=", "ichiro-1")
	want := "export AWS_ENDPOINT_URL=http://[::1]:8773\nexport AWS_ACCESS_KEY_ID=AKIA0123456789ABCDEF\n" +
		"export AWS_SECRET_ACCESS_KEY=a/b+c=\nexport AWS_DEFAULT_REGION=ichiro-1\n"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", "x; reboot", "$(reboot)", "`reboot`", "a b", "a\nexport PATH=/tmp", "a'b", "a*"} {
		if got, err := exports("http://127.0.0.1:1", bad, "s", "r"); err == nil {
			t.Errorf("key ID %q: got %q, want an error", bad, got)
		}
	}
}
