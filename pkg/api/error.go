package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Code is an error code as ARM writes it.
type Code string

// Error codes. Those that Azure documents or is known to answer have its spelling.
const (
	CodeInvalidRequest        Code = "InvalidRequestFormat"
	CodeInvalidParameter      Code = "InvalidParameter"
	CodeUnknownProperty       Code = "UnknownProperty"
	CodeUnsupportedProperty   Code = "UnsupportedProperty"
	CodeInvalidReference      Code = "InvalidResourceReference"
	CodeInvalidID             Code = "InvalidResourceId"
	CodeInvalidVersion        Code = "InvalidApiVersionParameter"
	CodeMissingVersion        Code = "MissingApiVersionParameter"
	CodeNotFound              Code = "ResourceNotFound"
	CodeInvalidType           Code = "InvalidResourceType"
	CodeUnauthorized          Code = "AuthenticationFailed"
	CodeForbidden             Code = "AuthorizationFailed"
	CodeLinkedForbidden       Code = "LinkedAuthorizationFailed"
	CodeConflict              Code = "Conflict"
	CodeBeingDeleted          Code = "AnotherOperationInProgress"
	CodeInUse                 Code = "InUseResourceCannotBeDeleted"
	CodeAddressInUse          Code = "PrivateIPAddressInUse"
	CodeAddressNotInSubnet    Code = "PrivateIPAddressNotInSubnet"
	CodeAddressReserved       Code = "PrivateIPAddressInReservedRange"
	CodeSubnetFull            Code = "SubnetIsFull"
	CodeLimit                 Code = "LimitExceeded"
	CodeReadOnly              Code = "ReadOnlyResource"
	CodeApproval              Code = "PrivateEndpointApprovalRequired"
	CodePrecondition          Code = "PreconditionFailed"
	CodeTooLarge              Code = "RequestBodyTooLarge"
	CodeInternal              Code = "InternalServerError"
	CodeUnavailable           Code = "ServiceUnavailable"
	CodeDataplane             Code = "DataplaneFailed"
	CodeOverlappingSpaces     Code = "VnetAddressSpacesOverlap"
	CodeMethodNotAllowed      Code = "MethodNotAllowed"
	CodeOperationNotSupported Code = "OperationNotSupported"
)

// Error is a refusal in ARM's form. Status is the HTTP status it travels with.
type Error struct {
	Status  int      `json:"-"`
	Code    Code     `json:"code"`
	Message string   `json:"message"`
	Target  string   `json:"target,omitempty"` // the property or resource that is wrong
	Details []*Error `json:"details,omitempty"`
}

// ErrorBody is what an HTTP answer carries.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Error is the target, the message and every further detail on its own line.
func (e *Error) Error() string {
	if len(e.Details) == 0 {
		return e.line()
	}
	lines := make([]string, len(e.Details))
	for i, d := range e.Details {
		lines[i] = d.line()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) line() string {
	if e.Target == "" {
		return e.Message
	}
	return e.Target + ": " + e.Message
}

// NewError makes an Error; target may be empty.
func NewError(status int, code Code, target, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Target: target, Message: fmt.Sprintf(format, args...)}
}

// Invalid is a property with a value that breaks a rule (400).
func Invalid(target, format string, args ...any) *Error {
	return NewError(http.StatusBadRequest, CodeInvalidParameter, target, format, args...)
}

// BadReference is a property that names something that is not there, or not fit (400).
func BadReference(target, format string, args ...any) *Error {
	return NewError(http.StatusBadRequest, CodeInvalidReference, target, format, args...)
}

// NotFound is a resource that does not exist or that the caller may not know of (404).
func NotFound(id ID) *Error {
	return NewError(http.StatusNotFound, CodeNotFound, "", "%s was not found", id.Short())
}

// Refused is a request that the state of other resources forbids (409).
func Refused(code Code, target, format string, args ...any) *Error {
	return NewError(http.StatusConflict, code, target, format, args...)
}

// OverLimit is a request that would exceed a limit (400).
func OverLimit(target, format string, args ...any) *Error {
	return NewError(http.StatusBadRequest, CodeLimit, target, format, args...)
}

// AsError finds the Error in err. Anything else becomes an internal error (500)
// with err's text.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	return NewError(http.StatusInternalServerError, CodeInternal, "", "%v", err)
}

// IsNotFound reports whether err says that a resource does not exist.
func IsNotFound(err error) bool {
	e := (*Error)(nil)
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// problems collects what is wrong with one resource.
type problems struct{ list []*Error }

func (p *problems) add(e *Error) { p.list = append(p.list, e) }

func (p *problems) invalid(target, format string, args ...any) {
	p.add(Invalid(target, format, args...))
}

// err is nil, the only problem, or the first one with all as its details.
func (p *problems) err() error {
	switch len(p.list) {
	case 0:
		return nil
	case 1:
		return p.list[0]
	}
	first := *p.list[0]
	first.Details = p.list
	return &first
}
