package host

import "testing"

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
