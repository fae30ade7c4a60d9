package app

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const envPrefix = "LASTCALL_"

// flagsAlone are flags that are not settings: no variable and no line of a file
// sets them.
var flagsAlone = []string{"check", "version"}

func isFlagAlone(name string) bool { return slices.Contains(flagsAlone, name) }

// settingNames returns the names of the flags that a variable can set.
func settingNames(fs *flag.FlagSet) (names []string) {
	fs.VisitAll(func(f *flag.Flag) {
		if !isFlagAlone(f.Name) {
			names = append(names, f.Name)
		}
	})
	return names
}

// given returns the names of the flags that were set.
func given(fs *flag.FlagSet) map[string]bool {
	names := make(map[string]bool)
	fs.Visit(func(f *flag.Flag) { names[f.Name] = true })
	return names
}

// variable returns the name of the variable that sets a flag.
func variable(name string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// setFromEnvironment sets the flags that are not set yet from variables. It ignores
// empty ones. It returns the variables that look like settings but are not, each with
// the nearest name.
func setFromEnvironment(fs *flag.FlagSet, environ []string) (unknown [][2]string, err error) {
	given := given(fs)
	names := make(map[string]string) // by variable
	for _, name := range settingNames(fs) {
		names[variable(name)] = name
	}
	for _, e := range environ {
		v, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(v, envPrefix) || value == "" {
			continue
		}
		name, ok := names[v]
		switch {
		case !ok && v != "LASTCALL_VERSION" && !ofKubernetes(v, value): // images set it to their own version
			near := nearest(strings.ReplaceAll(v[len(envPrefix):], "_", "-"), settingNames(fs))
			if near != "" {
				near = variable(near)
			}
			unknown = append(unknown, [2]string{v, near})
		case !ok || given[name]:
		default:
			if err := fs.Set(name, value); err != nil {
				return nil, fmt.Errorf("%s: %w", v, err)
			}
		}
	}
	return unknown, nil
}

// serviceVariable matches what Kubernetes sets in every container for a service
// of the namespace whose name is, or begins with, lastcall.
var serviceVariable = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)
})

func ofKubernetes(variable, value string) bool {
	return serviceVariable().MatchString(variable) || strings.HasSuffix(variable, "_PORT") && strings.Contains(value, "://")
}

// nearest returns the name that takes the fewest edits to become s, in lower case, or ""
// if all are farther than half of it.
func nearest(s string, names []string) (near string) {
	s = strings.ToLower(s)
	fewest := len(s)/2 + 1
	for _, name := range names {
		if n := distance(s, name); n < fewest {
			near, fewest = name, n
		}
	}
	return near
}

// distance is the Levenshtein distance of two strings.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			n := diagonal
			if a[i] != b[j] {
				n = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], n
		}
	}
	return row[len(b)]
}
