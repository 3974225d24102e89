package lbmodule

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

const grpcPrefix = "grpc:"

// checkStatus checks a status; others are what may stand in its place.
func checkStatus(field, value, others string) error {
	word, isGRPC := strings.CutPrefix(value, grpcPrefix)
	switch {
	case !isGRPC && !isFailureStatus(value):
		return fmt.Errorf("%s %s: must be %sa status from 400 to 599 or one of gRPC, such as grpc:unavailable", field, value, others)
	case isGRPC && !slices.Contains(grpcNames[1:], word):
		return fmt.Errorf("%s %s: must be grpc: and one of %s", field, value, strings.Join(grpcNames[1:], ", "))
	}
	return nil
}

// isFailureStatus tells whether value is a status of HTTP that can be a failure.
func isFailureStatus(value string) bool {
	code, err := strconv.Atoi(value)
	return err == nil && code >= 400 && code <= 599
}

// statusSet is a set of statuses.
type statusSet struct {
	http []int
	grpc uint32 // a bit for each code
}

// add puts a status that has been checked into the set.
func (s *statusSet) add(value string) {
	if word, isGRPC := strings.CutPrefix(value, grpcPrefix); isGRPC {
		s.grpc |= 1 << slices.Index(grpcNames[:], word)
		return
	}
	code, _ := strconv.Atoi(value)
	s.http = append(s.http, code)
}

func newStatusSet(statuses []Status) (set statusSet) {
	for _, s := range statuses {
		set.add(string(s))
	}
	return set
}

func (s *statusSet) empty() bool { return len(s.http) == 0 && s.grpc == 0 }

// has tells whether the status of an answer, or of the gRPC call that it belongs to, is in the set.
func (s *statusSet) has(status int, call grpcStatus) bool {
	return slices.Contains(s.http, status) || s.hasGRPC(call)
}

func (s *statusSet) hasGRPC(call grpcStatus) bool {
	return call != noGRPC && s.grpc&(1<<call.code()) != 0
}
