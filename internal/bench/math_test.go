package main

import (
	"math"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{5, 1, 3}, 3},
		{[]float64{7, 1, 3, 5}, 4},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v is %v, want %v", test.values, got, test.want)
		}
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("median of nothing is %v, want NaN", got)
	}
	values := []float64{2, 1}
	if median(values); values[0] != 2 {
		t.Error("the values were sorted in place")
	}
}

func TestExponent(t *testing.T) {
	x := []float64{1e4, 1e5, 1e6}
	for want, y := range map[float64][]float64{
		1: {3, 30, 300},
		2: {3, 300, 30_000},
		0: {7, 7, 7},
	} {
		if got := exponent(x, y); math.Abs(got-want) > 1e-9 {
			t.Errorf("exponent of %v is %v, want %v", y, got, want)
		}
	}
	if got := exponent(x[:1], x[:1]); !math.IsNaN(got) {
		t.Errorf("exponent of one point is %v, want NaN", got)
	}
}
