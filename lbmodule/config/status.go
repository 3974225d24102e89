package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/course"
)

// Status is a status of an answer: an HTTP status such as `503`, which is a number in JSON, or a gRPC status such as `grpc:unavailable`.
type Status string

// MarshalJSON writes a number for an HTTP status.
func (s Status) MarshalJSON() ([]byte, error) {
	if code, err := strconv.Atoi(string(s)); err == nil {
		return json.Marshal(code)
	}
	return json.Marshal(string(s))
}

// UnmarshalJSON reads a status; an HTTP status may be a number or a string.
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

// checkStatus checks a status; others are words that are valid in its place.
func checkStatus(field, value, others string) error {
	names := course.GRPCNames()[1:] // without ok
	word, isGRPC := strings.CutPrefix(value, course.GRPCPrefix)
	switch {
	case !isGRPC && !isFailureStatus(value):
		return fmt.Errorf("%s %s: must be %sa status from 400 to 599 or a gRPC status, such as grpc:unavailable", field, value, others)
	case isGRPC && !slices.Contains(names, word):
		return fmt.Errorf("%s %s: must be grpc: and one of %s", field, value, strings.Join(names, ", "))
	}
	return nil
}

// isFailureStatus reports whether value is an HTTP status that can be a failure.
func isFailureStatus(value string) bool {
	code, err := strconv.Atoi(value)
	return err == nil && code >= 400 && code <= 599
}
