package backup

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// UnmarshalJSON refuses keys that are not known.
func (s *Settings) UnmarshalJSON(b []byte) error {
	type plain Settings
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var p plain
	if err := dec.Decode(&p); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	*s = Settings(p)
	return nil
}

// Set implements pflag.Value.
func (s *Settings) Set(text string) error { return json.Unmarshal([]byte(text), s) }

// String implements pflag.Value.
func (s *Settings) String() string {
	if s == nil || *s == (Settings{}) {
		return ""
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Type implements pflag.Value.
func (*Settings) Type() string { return "backup" }

// Check refuses settings that cannot be read.
func (s *Settings) Check() error {
	if s.Schedule != "" && s.Schedule != ScheduleNone {
		if _, err := parseSchedule(s.Schedule); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	if _, err := ParseKeep(s.Keep); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}
