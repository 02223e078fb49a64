// How a program of ours tells what it saw: a line each, the name, a tab, the value.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

const deadline = 60 * time.Second

type observation struct {
	name    string
	observe func(ctx context.Context) (any, error)
}

var numbers = regexp.MustCompile(`\b(PID |pid |process |pg_temp_)\d+`)
var lines = regexp.MustCompile(`\s*\n\s*`)

func steady(text string) string {
	text = strings.ReplaceAll(text, os.Getenv("PGPASSWORD"), "PASSWORD")
	text = strings.ReplaceAll(text, os.Getenv("PGPORT"), "PORT")
	text = regexp.MustCompile(`127\.0\.0\.1:\d+->`).ReplaceAllString(text, "")
	return lines.ReplaceAllString(numbers.ReplaceAllString(text, "${1}N"), " | ")
}

func runAll(observations []observation) {
	for _, each := range observations {
		ctx, stop := context.WithTimeout(context.Background(), deadline)
		value, err := each.observe(ctx)
		stop()
		if err != nil {
			value = fmt.Sprintf("%v and the error %s", value, told(err))
		}
		fmt.Printf("%s\t%s\n", each.name, steady(fmt.Sprintf("%v", value)))
	}
}

// until waits until isMet says so.
func until(ctx context.Context, isMet func() (bool, error)) error {
	for {
		met, err := isMet()
		if met || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("waited in vain")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
