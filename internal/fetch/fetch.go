// Package fetch is an HTTP/1.1 client for a guest that has nothing yet.
//
// It speaks to one server, given by address, over plain TCP, and pipelines: all requests
// of a call leave in one write, so that four questions cost one round trip. A server that
// closes after an answer is asked the rest on a new connection.
// It is small on purpose (the standard client costs init 4 MB) and bounded everywhere: lines,
// headers and bodies have limits, and whatever exceeds one ends the call.
package fetch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of one answer.
const (
	maxLine    = 4 << 10
	maxHeaders = 64
	MaxBody    = 16 << 20
)

// ErrMalformed is returned for an answer that is not HTTP/1.
var ErrMalformed = errors.New("malformed HTTP answer")

// ErrTooLarge is returned for an answer that exceeds a limit.
var ErrTooLarge = errors.New("HTTP answer exceeds the limit")

// Request is one question.
type Request struct {
	Method string
	Path   string
	Header map[string]string
}

// Response is one answer, whole. Keys of Header are in lower case.
type Response struct {
	Status int
	Header map[string]string
	Body   []byte
	last   bool // the server will say nothing more on this connection
}

// Client asks one server.
type Client struct {
	Server netip.AddrPort
	Host   string // of the Host header; the server's address when empty
}

// Do asks all requests and returns as many answers, in the same order.
// The context's deadline bounds the call; without one it is 10 seconds.
func (c Client) Do(ctx context.Context, requests ...Request) ([]Response, error) {
	answers := make([]Response, 0, len(requests))
	for len(answers) < len(requests) {
		got, err := c.ask(ctx, requests[len(answers):])
		answers = append(answers, got...)
		if err != nil && len(got) == 0 {
			return nil, fmt.Errorf("%s %s of %s: %w", requests[len(answers)].Method, requests[len(answers)].Path, c.Server, err)
		}
	}
	return answers, nil
}

// ask uses one connection for as many of the requests as the server will answer on it.
func (c Client) ask(ctx context.Context, requests []Request) ([]Response, error) {
	f, err := dial(ctx, c.Server)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })()
	var out bytes.Buffer
	for _, r := range requests {
		c.encode(&out, r)
	}
	if _, err := f.Write(out.Bytes()); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	in := bufio.NewReaderSize(f, maxLine)
	var answers []Response
	for _, r := range requests {
		a, err := ReadResponse(in, r.Method)
		if err != nil {
			return answers, err
		}
		answers = append(answers, a)
		if a.last {
			break
		}
	}
	return answers, nil
}

func (c Client) encode(w *bytes.Buffer, r Request) {
	host := c.Host
	if host == "" {
		host = c.Server.Addr().String()
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	}
	fmt.Fprintf(w, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: ichiro-init\r\n", r.Method, r.Path, host)
	for k, v := range r.Header {
		fmt.Fprintf(w, "%s: %s\r\n", k, v)
	}
	if r.Method == "PUT" || r.Method == "POST" {
		w.WriteString("Content-Length: 0\r\n")
	}
	w.WriteString("\r\n")
}

// ReadResponse reads one answer to a request of the given method.
func ReadResponse(r *bufio.Reader, method string) (Response, error) {
	line, err := readLine(r)
	if err != nil {
		return Response{}, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 100 || !strings.HasPrefix(version, "HTTP/1.") {
		return Response{}, fmt.Errorf("%w: status line %.60q", ErrMalformed, line)
	}
	a := Response{Status: status, Header: map[string]string{}}
	for {
		line, err := readLine(r)
		if err != nil {
			return Response{}, err
		}
		if line == "" {
			break
		}
		k, v, ok := strings.Cut(line, ":")
		if !ok || k == "" {
			return Response{}, fmt.Errorf("%w: header %.60q", ErrMalformed, line)
		}
		if len(a.Header) >= maxHeaders {
			return Response{}, fmt.Errorf("%w: more than %d headers", ErrTooLarge, maxHeaders)
		}
		a.Header[strings.ToLower(k)] = strings.TrimSpace(v)
	}
	if status < 200 { // an interim answer; the real one follows
		return ReadResponse(r, method)
	}
	connection := strings.ToLower(a.Header["connection"])
	a.last = connection == "close" || version == "HTTP/1.0" && connection != "keep-alive"
	if method == "HEAD" || status == 204 || status == 304 {
		return a, nil
	}
	a.Body, err = readBody(r, &a)
	return a, err
}

func readBody(r *bufio.Reader, a *Response) ([]byte, error) {
	if strings.EqualFold(a.Header["transfer-encoding"], "chunked") {
		return readChunks(r)
	}
	text, ok := a.Header["content-length"]
	if !ok { // the body ends with the connection
		a.last = true
		body, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
		if len(body) > MaxBody {
			return nil, ErrTooLarge
		}
		return body, err
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return nil, fmt.Errorf("%w: length %.30q", ErrMalformed, text)
	}
	if n > MaxBody {
		return nil, ErrTooLarge
	}
	return readExactly(r, int(n))
}

// readExactly grows with what arrives, so that a claimed length alone costs no memory.
func readExactly(r *bufio.Reader, n int) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(body) < n {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

func readChunks(r *bufio.Reader) ([]byte, error) {
	var body []byte
	for {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%w: chunk size %.30q", ErrMalformed, line)
		}
		if len(body)+int(n) > MaxBody {
			return nil, ErrTooLarge
		}
		chunk, err := readExactly(r, int(n))
		if err != nil {
			return nil, err
		}
		body = append(body, chunk...)
		// After a chunk comes an empty line; after the last one trailers, which we skip.
		for trailers := 0; ; trailers++ {
			line, err := readLine(r)
			if err != nil {
				return nil, err
			}
			if line == "" {
				break
			}
			if n > 0 || trailers >= maxHeaders {
				return nil, fmt.Errorf("%w: text after a chunk", ErrMalformed)
			}
		}
		if n == 0 {
			return body, nil
		}
	}
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", fmt.Errorf("%w: line longer than %d bytes", ErrTooLarge, maxLine)
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

// dial opens a TCP connection as a file, which has deadlines as a connection has.
func dial(ctx context.Context, to netip.AddrPort) (*os.File, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	var family int
	var sa unix.Sockaddr
	if a := to.Addr().Unmap(); a.Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: a.As16()}
	} else {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: a.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	err = unix.Connect(fd, sa)
	f := os.NewFile(uintptr(fd), to.String())
	if err == nil {
		return f, f.SetDeadline(deadline)
	}
	if err == unix.EINPROGRESS {
		err = connected(ctx, f, deadline)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("connect: %w", err)
	}
	return f, nil
}

// connected waits for the end of a connect in progress.
func connected(ctx context.Context, f *os.File, deadline time.Time) error {
	if err := f.SetDeadline(deadline); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		if _, err := unix.Getpeername(int(fd)); err == nil {
			return true
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case code != 0:
			result = unix.Errno(code)
		default:
			return false // not yet: wait until it is writable
		}
		return true
	})
	if err != nil {
		return err
	}
	return result
}
