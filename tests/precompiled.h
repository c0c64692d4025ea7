// What nearly every test includes and what is slow to parse; compiled once for all of them.
#pragma once

#include <fmt/chrono.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "cmake/precompiled.h"
