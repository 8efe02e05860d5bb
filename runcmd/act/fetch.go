package act

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/ichiro-metal/ichiro/internal/cloud"
)

// fetch downloads a file. It appears whole, with the sum that was asked for, or not at all.
func fetch(d cloud.StepDownload, work string) (int, error) {
	to, folder := d.Destination, d.Destination == "" || strings.HasSuffix(d.Destination, "/")
	if !filepath.IsAbs(to) {
		to = filepath.Join(work, to)
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		return 1, fmt.Errorf("read the URL: %w", err)
	}
	if info, err := os.Stat(to); folder || err == nil && info.IsDir() {
		name := path.Base(u.Path)
		if name == "/" || name == "." || name == ".." {
			return 1, errors.New("the URL has no name for the file: name it in destinationPath")
		}
		to = filepath.Join(to, name)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return 1, err
	}
	ctx := context.Background() // the step's own timeout ends this process
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return 1, err
	}
	client := &http.Client{}
	if d.S3 {
		// What is signed for one host is not for another.
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if err := signForS3(ctx, req); err != nil {
			return 1, fmt.Errorf("sign with the instance's role: %w", err)
		}
	} else if d.User != "" || d.Password != "" {
		req.SetBasicAuth(d.User, d.Password)
	}
	n, err := save(client, req, to, d.SHA256)
	if err != nil {
		return 1, fmt.Errorf("download %s: %w", u.Redacted(), err)
	}
	fmt.Printf("downloaded %d bytes to %s\n", n, to)
	return 0, nil
}

func save(client *http.Client, req *http.Request, to, want string) (int64, error) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return 0, fmt.Errorf("the server answers %s: %.300s", resp.Status, text)
	}
	f, err := os.CreateTemp(filepath.Dir(to), ".download-*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), resp.Body)
	if err != nil {
		return 0, err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want != "" && got != want {
		return 0, fmt.Errorf("the file has the SHA-256 %s, not %s", got, want)
	}
	if err := errors.Join(f.Chmod(0o700), f.Sync()); err != nil {
		return 0, err
	}
	return n, os.Rename(f.Name(), to)
}

// role is what the metadata service has of the instance's role.
type role struct {
	AccessKeyId, SecretAccessKey, Token string
}

// credentials asks the metadata service, as every SDK does, for the role's credentials and the region.
func credentials(ctx context.Context) (r role, region string, err error) {
	base := os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	if base == "" {
		base = "http://169.254.169.254"
	}
	base = strings.TrimSuffix(base, "/") + "/latest/"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var token string
	ask := func(method, path string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, method, base+path, nil)
		if err != nil {
			return "", err
		}
		if token == "" {
			req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", "60")
		} else {
			req.Header.Set("X-aws-ec2-metadata-token", token)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("the metadata service answers %s for %s", resp.Status, path)
		}
		return string(text), err
	}
	if token, err = ask(http.MethodPut, "api/token"); err != nil {
		return r, "", err
	}
	name, err := ask(http.MethodGet, "meta-data/iam/security-credentials/")
	if err != nil {
		return r, "", fmt.Errorf("the instance has no role: %w", err)
	}
	name, _, _ = strings.Cut(name, "\n")
	text, err := ask(http.MethodGet, "meta-data/iam/security-credentials/"+url.PathEscape(name))
	if err != nil {
		return r, "", err
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, "", fmt.Errorf("read the role's credentials: %w", err)
	}
	region, err = ask(http.MethodGet, "meta-data/placement/region")
	return r, region, err
}

// signForS3 signs a request of no body by Signature Version 4.
func signForS3(ctx context.Context, req *http.Request) error {
	r, region, err := credentials(ctx)
	if err != nil {
		return err
	}
	sign(req, r, region, time.Now())
	return nil
}

func sign(req *http.Request, r role, region string, now time.Time) {
	at := now.UTC().Format("20060102T150405Z")
	body := sha256.Sum256(nil)
	headers := map[string]string{
		"host": req.URL.Host, "x-amz-content-sha256": hex.EncodeToString(body[:]), "x-amz-date": at,
	}
	if r.Token != "" {
		headers["x-amz-security-token"] = r.Token
	}
	var names []string
	for name, v := range headers {
		names = append(names, name)
		if name != "host" {
			req.Header.Set(name, v)
		}
	}
	sort.Strings(names)
	var lines strings.Builder
	for _, name := range names {
		lines.WriteString(name + ":" + headers[name] + "\n")
	}
	signed := strings.Join(names, ";")
	// Of the path S3 takes every byte but these as %XX, and decodes it once: url.URL keeps how it was written.
	req.URL.RawPath = escape(req.URL.Path, "/")
	var query []string
	for name, values := range req.URL.Query() {
		for _, v := range values {
			query = append(query, escape(name, "")+"="+escape(v, ""))
		}
	}
	sort.Strings(query)
	req.URL.RawQuery = strings.Join(query, "&")
	canonical := strings.Join([]string{req.Method, req.URL.RawPath, req.URL.RawQuery, lines.String(), signed, headers["x-amz-content-sha256"]}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	scope := at[:8] + "/" + region + "/s3/aws4_request"
	key := []byte("AWS4" + r.SecretAccessKey)
	for _, word := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+at+"\n"+scope+"\n"+hex.EncodeToString(sum[:])) {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(word))
		key = m.Sum(nil)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x", r.AccessKeyId, scope, signed, key))
}

// escape writes all but unreserved characters, and those of keep, as %XX.
func escape(s, keep string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~"+keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
