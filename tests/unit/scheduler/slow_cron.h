// Cron once more, as slow and plain as can be, for tests to compare with: it reads an expression by
// itself and answers for one minute or second whether it fits. It shares no code with the product
// and knows no H, macro or name.
#pragma once

#include <ctime>
#include <sstream>
#include <string>
#include <vector>

namespace bpg::scheduler::test {

inline int days_in_month(int year, int month) {
    if (month == 2) return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0 ? 29 : 28;
    return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

/// Sakamoto's method; Sunday is 0.
inline int weekday_of(int year, int month, int day) {
    static const int offsets[] = {0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4};
    if (month < 3) --year;
    return (year + year / 4 - year / 100 + year / 400 + offsets[month - 1] + day) % 7;
}

class SlowCron {
  public:
    explicit SlowCron(const std::string& text) {
        std::istringstream stream(text);
        std::string field;
        while (stream >> field)
            fields_.push_back(field);
        if (fields_.size() == 5) fields_.insert(fields_.begin(), "0");
    }

    bool is_elapsed() const { return fields_[2] == "*"; }

    bool fits(const std::tm& local) const {
        return fits_number(fields_[0], local.tm_sec, 0, 59) &&
               fits_number(fields_[1], local.tm_min, 0, 59) &&
               fits_number(fields_[2], local.tm_hour, 0, 23) &&
               fits_day(local.tm_year + 1900, local.tm_mon + 1, local.tm_mday);
    }

    bool fits_day(int year, int month, int day) const {
        if (!fits_number(fields_[4], month, 1, 12)) return false;
        const bool by_month = fits_month_day(year, month, day);
        const bool by_week = fits_weekday(year, month, day);
        const bool is_open = fields_[3][0] == '*' || fields_[5][0] == '*';
        return is_open ? by_month && by_week : by_month || by_week;
    }

  private:
    static std::vector<std::string> items(const std::string& field) {
        std::vector<std::string> found;
        std::istringstream stream(field);
        std::string item;
        while (std::getline(stream, item, ','))
            found.push_back(item);
        return found;
    }

    static bool fits_item(const std::string& item, int value, int low, int high) {
        const auto slash = item.find('/');
        const int step = slash == std::string::npos ? 1 : std::stoi(item.substr(slash + 1));
        const std::string base = item.substr(0, slash);
        const auto dash = base.find('-');
        int first = low;
        int last = high;
        if (dash != std::string::npos) {
            first = std::stoi(base.substr(0, dash));
            last = std::stoi(base.substr(dash + 1));
        } else if (base != "*") {
            first = std::stoi(base);
            if (slash == std::string::npos) last = first;
        }
        return value >= first && value <= last && (value - first) % step == 0;
    }

    static bool fits_number(const std::string& field, int value, int low, int high) {
        for (const std::string& item : items(field)) {
            if (fits_item(item, value, low, high)) return true;
        }
        return false;
    }

    bool fits_month_day(int year, int month, int day) const {
        const int length = days_in_month(year, month);
        for (const std::string& item : items(fields_[3])) {
            if (item == "L") {
                if (day == length) return true;
            } else if (item.back() == 'W') {
                const int wanted =
                    item == "LW" ? length : std::stoi(item.substr(0, item.size() - 1));
                if (wanted <= length && nearest(year, month, wanted, length) == day) return true;
            } else if (fits_item(item, day, 1, 31)) {
                return true;
            }
        }
        return false;
    }

    /// Tries the distances 0, 1, 2 on both sides.
    static int nearest(int year, int month, int wanted, int length) {
        for (int distance = 0; distance < 3; ++distance) {
            for (const int day : {wanted - distance, wanted + distance}) {
                if (day < 1 || day > length) continue;
                const int weekday = weekday_of(year, month, day);
                if (weekday != 0 && weekday != 6) return day;
            }
        }
        return 0;
    }

    bool fits_weekday(int year, int month, int day) const {
        const int weekday = weekday_of(year, month, day);
        for (const std::string& item : items(fields_[5])) {
            const auto hash = item.find('#');
            if (hash != std::string::npos) {
                const bool is_day = std::stoi(item.substr(0, hash)) % 7 == weekday;
                if (is_day && (day - 1) / 7 + 1 == std::stoi(item.substr(hash + 1))) return true;
            } else if (item.back() == 'L') {
                const bool is_day = std::stoi(item.substr(0, item.size() - 1)) % 7 == weekday;
                if (is_day && day + 7 > days_in_month(year, month)) return true;
            } else if (fits_item(item, weekday, 0, 6) ||
                       (weekday == 0 && item[0] != '*' && item.find('/') == std::string::npos &&
                        fits_item(item, 7, 0, 7))) {
                return true;
            }
        }
        return false;
    }

    std::vector<std::string> fields_;  ///< six
};

}  // namespace bpg::scheduler::test
