package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/course"
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

// checkStatus checks a status; others are what may stand in its place.
func checkStatus(field, value, others string) error {
	names := course.GRPCNames()[1:] // but for ok
	word, isGRPC := strings.CutPrefix(value, course.GRPCPrefix)
	switch {
	case !isGRPC && !isFailureStatus(value):
		return fmt.Errorf("%s %s: must be %sa status from 400 to 599 or one of gRPC, such as grpc:unavailable", field, value, others)
	case isGRPC && !slices.Contains(names, word):
		return fmt.Errorf("%s %s: must be grpc: and one of %s", field, value, strings.Join(names, ", "))
	}
	return nil
}

// isFailureStatus tells whether value is a status of HTTP that can be a failure.
func isFailureStatus(value string) bool {
	code, err := strconv.Atoi(value)
	return err == nil && code >= 400 && code <= 599
}
