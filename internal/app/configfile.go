package app

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// setFromFile sets flags as the lines of a file say: the name, blanks, and the
// value, which a switch may do without. Empty lines, and lines that begin with #,
// are skipped. A flag that is set already keeps its value, but the one in the
// file has to be right all the same. The error names the line.
func setFromFile(fs *flag.FlagSet, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("-config: %w", err)
	}
	defer f.Close()
	given := given(fs)
	read := (&Settings{}).flags() // the file's settings
	lines := bufio.NewScanner(f)
	n := 1
	for ; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value := line, ""
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			name, value = line[:i], strings.TrimSpace(line[i:])
		}
		err := setFromLine(read, name, value)
		if err == nil && !given[name] {
			err = fs.Set(name, orTrue(fs, name, value))
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s:%d: the line is longer than 64 KiB", file, n)
	case err != nil:
		return fmt.Errorf("-config: %w", err)
	}
	return nil
}

// setFromLine sets a flag, and says what is wrong with a line that does not.
func setFromLine(fs *flag.FlagSet, name, value string) error {
	f := fs.Lookup(name)
	switch {
	case f == nil:
		return unknownName(fs, name)
	case name == "config" || isFlagAlone(name):
		return fmt.Errorf("%s: is a flag, and not a setting of a file", name)
	case strings.HasPrefix(value, "#") || strings.Contains(value, " #") || strings.Contains(value, "\t#"):
		return fmt.Errorf("%s: %q: a comment wants a line of its own, and a value with a blank before # has to be a flag", name, value)
	case given(fs)[name] && name != "listen":
		return fmt.Errorf("%s: is set twice", name)
	case value == "" && !isSwitch(f):
		return fmt.Errorf("%s: want a value", name)
	}
	if err := fs.Set(name, orTrue(fs, name, value)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// orTrue returns value, or "true" for a switch that stands alone.
func orTrue(fs *flag.FlagSet, name, value string) string {
	if value == "" && isSwitch(fs.Lookup(name)) {
		return "true"
	}
	return value
}

func isSwitch(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// unknownName returns the error for a line that begins with the name of no flag.
func unknownName(fs *flag.FlagSet, name string) error {
	plain, _, equals := strings.Cut(strings.TrimLeft(name, "-"), "=")
	if f := fs.Lookup(plain); f != nil {
		want := plain
		if !isSwitch(f) || equals {
			want += " VALUE"
		}
		return fmt.Errorf("%q is not a setting: want %q", name, want)
	}
	if near := nearest(plain, settingNames(fs)); near != "" {
		return fmt.Errorf("%q is not a setting: is it %s?", name, near)
	}
	return fmt.Errorf("%q is not a setting; -help lists those there are", name)
}
