package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// What an Authority answers.
var (
	ErrUnknownKey   = errors.New("the access key does not exist or is not active")
	ErrBadToken     = errors.New("the session token is not valid for the access key")
	ErrTokenExpired = errors.New("the session has expired")
	ErrDenied       = errors.New("not authorized")
)

// A fault is an answer that is not the one asked for: a code of the service's own dialect, a sentence, a status.
type fault struct {
	code, message string
	status        int
}

func (f fault) receiver() bool { return f.status >= http.StatusInternalServerError }

// defect is what clients are told of our own mistakes; the log has the rest.
func defect(p wire.Protocol) fault {
	code := map[wire.Protocol]string{wire.EC2: "InternalError", wire.Query: "InternalFailure", wire.JSON: "InternalServerError", wire.REST: "InternalServerErrorException"}[p]
	return fault{code, "An internal error has occurred. It is in the server's log under this request's id", http.StatusInternalServerError}
}

// statuses holds the codes that are not 400.
var statuses = map[string]int{
	"AuthFailure":                  http.StatusUnauthorized,
	"UnauthorizedOperation":        http.StatusForbidden,
	"AccessDenied":                 http.StatusForbidden,
	"SignatureDoesNotMatch":        http.StatusForbidden,
	"InvalidClientTokenId":         http.StatusForbidden,
	"ExpiredToken":                 http.StatusForbidden,
	"MissingAuthenticationToken":   http.StatusForbidden,
	"IncompleteSignature":          http.StatusBadRequest,
	"DryRunOperation":              http.StatusPreconditionFailed,
	"RequestLimitExceeded":         http.StatusServiceUnavailable,
	"Unavailable":                  http.StatusServiceUnavailable,
	"ServiceUnavailable":           http.StatusServiceUnavailable,
	"InternalError":                http.StatusInternalServerError,
	"InternalFailure":              http.StatusInternalServerError,
	"InternalServerError":          http.StatusInternalServerError,
	"ServiceFailure":               http.StatusInternalServerError,
	"InsufficientInstanceCapacity": http.StatusInternalServerError,
	"InsufficientHostCapacity":     http.StatusInternalServerError,
	"InsufficientCapacity":         http.StatusInternalServerError,
	"InsufficientAddressCapacity":  http.StatusInternalServerError,
}

// queryStatuses holds the codes whose status differs in the Query protocol (IAM, STS).
var queryStatuses = map[string]int{
	"NoSuchEntity":           http.StatusNotFound,
	"EntityAlreadyExists":    http.StatusConflict,
	"DeleteConflict":         http.StatusConflict,
	"LimitExceeded":          http.StatusConflict,
	"ConcurrentModification": http.StatusConflict,
	"UnmodifiableEntity":     http.StatusBadRequest,
}

// restStatuses holds the codes of REST-JSON that are not 400.
var restStatuses = map[string]int{
	"NotFoundException":                   http.StatusNotFound,
	"ForbiddenException":                  http.StatusForbidden,
	"AccessDeniedException":               http.StatusForbidden,
	"UnrecognizedClientException":         http.StatusForbidden,
	"InvalidSignatureException":           http.StatusForbidden,
	"ExpiredTokenException":               http.StatusForbidden,
	"MissingAuthenticationTokenException": http.StatusForbidden,
	"IncompleteSignatureException":        http.StatusForbidden,
	"UnknownOperationException":           http.StatusNotFound,
	"InternalServerErrorException":        http.StatusInternalServerError,
}

func statusOf(p wire.Protocol, code string) int {
	special := map[wire.Protocol]map[string]int{wire.Query: queryStatuses, wire.REST: restStatuses}[p]
	if s, ok := special[code]; ok {
		return s
	}
	s, ok := statuses[code]
	switch {
	case !ok:
		return http.StatusBadRequest
	case p == wire.JSON && s < http.StatusInternalServerError: // JSON 1.1 says all client errors with 400
		return http.StatusBadRequest
	}
	return s
}

func refuse(p wire.Protocol, code, message string) fault {
	return fault{code, message, statusOf(p, code)}
}

// translate turns an error into the protocol's words. ok is false for an error that is a defect of ours.
func translate(p wire.Protocol, err error) (f fault, ok bool) {
	var known cloud.Error
	var unread *wire.Error
	switch {
	case errors.As(err, &known):
		return refuse(p, dialect(p, known.Code), known.Message), true
	case errors.As(err, &unread):
		return refuse(p, unreadCode(p, unread.Kind), unread.Error()), true
	}
	switch {
	case errors.Is(err, store.ErrTooLarge):
		return refuse(p, dialect(p, "InvalidParameterCombination"), "The request comes to more than can be stored at once: ask for fewer, or with less data each"), true
	case errors.Is(err, store.ErrUnavailable):
		return refuse(p, "Unavailable", "The store of the control plane does not answer: try again"), true
	case errors.Is(err, store.ErrFull):
		return refuse(p, "Unavailable", "The store of the control plane is full: delete what is not needed, or have its operator raise the quota"), true
	}
	if code := authCode(p, err); code != "" {
		return refuse(p, code, sentence(err)), true
	}
	return defect(p), false
}

// dialect turns EC2's codes for bad parameters, which shared helpers use, into what the other protocols say.
func dialect(p wire.Protocol, code string) string {
	switch code {
	case "InvalidParameterValue", "MissingParameter", "InvalidParameterCombination":
		return map[wire.Protocol]string{wire.EC2: code, wire.Query: "ValidationError", wire.JSON: "ValidationException", wire.REST: "BadRequestException"}[p]
	case "InvalidNextToken":
		return map[wire.Protocol]string{wire.EC2: code, wire.Query: "ValidationError", wire.JSON: code, wire.REST: "BadRequestException"}[p]
	}
	return code
}

func unreadCode(p wire.Protocol, k wire.Kind) string {
	switch {
	case (p == wire.JSON || p == wire.REST) && k == wire.Malformed:
		return "SerializationException"
	case p == wire.JSON:
		return "ValidationException"
	case p == wire.REST:
		return "BadRequestException"
	}
	switch k {
	case wire.UnknownParameter:
		return "UnknownParameter"
	case wire.MissingParameter:
		if p == wire.Query {
			return "ValidationError"
		}
		return "MissingParameter"
	case wire.InvalidValue:
		if p == wire.Query {
			return "ValidationError"
		}
		return "InvalidParameterValue"
	default:
		return "MalformedQueryString"
	}
}

// authCodes holds what each protocol calls a failed authentication: EC2, Query, JSON and REST.
var authCodes = []struct {
	err              error
	ec2, query, json string
}{
	{sigv4.ErrMissing, "MissingAuthenticationToken", "MissingAuthenticationToken", "MissingAuthenticationTokenException"},
	{sigv4.ErrMalformed, "IncompleteSignature", "IncompleteSignature", "IncompleteSignatureException"},
	{sigv4.ErrUnsigned, "AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException"},
	{sigv4.ErrMismatch, "AuthFailure", "SignatureDoesNotMatch", "InvalidSignatureException"},
	{sigv4.ErrSkew, "RequestExpired", "RequestExpired", "InvalidSignatureException"},
	{sigv4.ErrExpired, "RequestExpired", "RequestExpired", "InvalidSignatureException"},
	{ErrUnknownKey, "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException"},
	{ErrBadToken, "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException"},
	{ErrTokenExpired, "RequestExpired", "ExpiredToken", "ExpiredTokenException"},
	{ErrDenied, "UnauthorizedOperation", "AccessDenied", "AccessDeniedException"},
}

func authCode(p wire.Protocol, err error) string {
	for _, c := range authCodes {
		if errors.Is(err, c.err) {
			return map[wire.Protocol]string{wire.EC2: c.ec2, wire.Query: c.query, wire.JSON: c.json, wire.REST: c.json}[p]
		}
	}
	return ""
}

// sentence is what an authentication error tells a client: the sentinel's words, not what wraps it,
// because a wrapping may name keys; with what the client can do about it.
func sentence(err error) string {
	advice := map[error]string{
		sigv4.ErrMissing:   "sign it with an access key (aws configure)",
		sigv4.ErrMalformed: "it needs Credential, SignedHeaders, Signature and a date that is the scope's",
		sigv4.ErrMismatch:  "check the secret access key, and that nothing on the way changes requests",
		sigv4.ErrSkew:      "set the client's clock",
		ErrUnknownKey:      "check the access key ID",
		ErrTokenExpired:    "get new credentials",
	}
	for _, c := range authCodes {
		if errors.Is(err, c.err) {
			msg := strings.ToUpper(c.err.Error()[:1]) + c.err.Error()[1:]
			if a := advice[c.err]; a != "" {
				msg += ": " + a
			}
			return msg
		}
	}
	return fmt.Sprint(err)
}
