package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Status is a status of answers: of HTTP, such as `503`, or of gRPC, such as `grpc:unavailable`. In JSON the former is a number.
type Status string

// MarshalJSON writes a number where it is one.
func (s Status) MarshalJSON() ([]byte, error) {
	if code, err := strconv.Atoi(string(s)); err == nil {
		return json.Marshal(code)
	}
	return json.Marshal(string(s))
}

// UnmarshalJSON reads what MarshalJSON writes, and a number in a string.
func (s *Status) UnmarshalJSON(text []byte) error {
	var code int
	if json.Unmarshal(text, &code) == nil && string(text) != "null" {
		*s = Status(strconv.Itoa(code))
		return nil
	}
	var word string
	if json.Unmarshal(text, &word) != nil || word == "" {
		return fmt.Errorf("status %s: must be a number, such as 503, or a word, such as \"grpc:unavailable\"", text)
	}
	*s = Status(word)
	return nil
}

// GRPCPrefix stands before the statuses of gRPC, where those of HTTP may be given, too.
const GRPCPrefix = "grpc:"

// checkStatus checks a status; others are what may stand in its place.
func checkStatus(field, value, others string) error {
	word, isGRPC := strings.CutPrefix(value, GRPCPrefix)
	switch {
	case !isGRPC && !isFailureStatus(value):
		return fmt.Errorf("%s %s: must be %sa status from 400 to 599 or one of gRPC, such as grpc:unavailable", field, value, others)
	case isGRPC && !slices.Contains(GRPCNames[1:], word):
		return fmt.Errorf("%s %s: must be grpc: and one of %s", field, value, strings.Join(GRPCNames[1:], ", "))
	}
	return nil
}

// isFailureStatus tells whether value is a status of HTTP that can be a failure.
func isFailureStatus(value string) bool {
	code, err := strconv.Atoi(value)
	return err == nil && code >= 400 && code <= 599
}

// GRPCNames are the statuses of gRPC by their codes, as its documentation names them (github.com/grpc/grpc, doc/statuscodes.md).
var GRPCNames = [...]string{
	"ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}
